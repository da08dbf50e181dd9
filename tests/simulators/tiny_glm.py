"""A GLM-4 in GGUF with random weights, of 0.4 MB: the architecture, tokenizer and chat template of GLM-4.

It babbles. llama.cpp cannot tell it from a real one, so schemas, limits and slots are enforced on it too.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

TEMPLATE = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
MERGES = ["t h", "i n", "e r", "a n", "Ġ t", "th e"]
HIDDEN, LAYERS, HEADS, KV_HEADS, FEED_FORWARD, CONTEXT = 64, 2, 4, 2, 128, 4096


def write_tiny_glm(path: Path, seed: int = 7, hidden: int = HIDDEN, layers: int = LAYERS) -> str:
    """Write the file; its SHA-256. Skips where the package `gguf` (of the extra `dev`) is missing."""
    gguf = pytest.importorskip("gguf", reason="the package 'gguf' is not installed: pip install -e '.[dev]'")
    writer = gguf.GGUFWriter(path, "glm4")
    writer.add_name("tiny GLM-4, random weights")
    writer.add_block_count(layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(2 * hidden)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(hidden // HEADS // 2)
    tokens = _add_tokenizer(writer, gguf)
    random = np.random.default_rng(seed)
    for name, shape in _tensors(len(tokens), hidden, layers):
        ones = name.endswith("norm.weight")
        scale = 1.0 / np.sqrt(shape[-1])
        writer.add_tensor(name, np.ones(shape, np.float32) if ones else _normal(random, shape, scale))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _normal(random: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    return (random.standard_normal(shape) * scale).astype(np.float32)


def _add_tokenizer(writer: object, gguf: object) -> list[str]:
    """Byte-level BPE with GLM-4's own split; every text can be written."""
    tokens = [*_byte_letters(), *(merge.replace(" ", "") for merge in MERGES), *SPECIAL]
    kinds = [gguf.TokenType.CONTROL if one in SPECIAL else gguf.TokenType.NORMAL for one in tokens]  # type: ignore[attr-defined]
    writer.add_tokenizer_model("gpt2")  # type: ignore[attr-defined]
    writer.add_tokenizer_pre("glm4")  # type: ignore[attr-defined]
    writer.add_token_list(tokens)  # type: ignore[attr-defined]
    writer.add_token_types(kinds)  # type: ignore[attr-defined]
    writer.add_token_merges(MERGES)  # type: ignore[attr-defined]
    writer.add_eos_token_id(tokens.index("<|endoftext|>"))  # type: ignore[attr-defined]
    writer.add_eot_token_id(tokens.index("<|user|>"))  # type: ignore[attr-defined]
    writer.add_chat_template(TEMPLATE)  # type: ignore[attr-defined]
    return tokens


@cache
def _byte_letters() -> list[str]:
    """The letter that stands for each byte, as in GPT-2."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def _tensors(vocabulary: int, hidden: int, layers: int) -> list[tuple[str, tuple[int, ...]]]:
    head, wide = hidden // HEADS, 2 * hidden
    found: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (vocabulary, hidden))]
    for n in range(layers):
        found += [
            (f"blk.{n}.{name}.weight", shape)
            for name, shape in (
                ("attn_norm", (hidden,)), ("attn_q", (hidden, hidden)), ("attn_k", (head * KV_HEADS, hidden)),
                ("attn_v", (head * KV_HEADS, hidden)), ("attn_output", (hidden, hidden)),
                ("post_attention_norm", (hidden,)), ("ffn_norm", (hidden,)), ("ffn_up", (2 * wide, hidden)),
                ("ffn_down", (hidden, wide)), ("post_ffw_norm", (hidden,)),
            )
        ]  # fmt: skip
    return [*found, ("output_norm.weight", (hidden,)), ("output.weight", (vocabulary, hidden))]
