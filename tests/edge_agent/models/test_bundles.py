"""Bundles: what is not as its manifest says is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from simulators.model_bundles import (
    DIGITS,
    deep_json,
    edit,
    leaving,
    missing,
    nul_in_name,
    rename,
    symlink_out,
    tampered,
    with_model,
)

from shared.errors import ModelError
from shared.models.bundle import load


def longer(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")


def a_folder(folder: Path) -> None:
    missing(folder)
    (folder / "model.onnx").mkdir()


def absolute(folder: Path) -> None:
    rename(folder, str(folder / "model.onnx"))


def leaving_inside(folder: Path) -> None:
    rename(folder, "x/../../bundle/model.onnx")


def symlinked_folder(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "elsewhere")
    (folder / "sub").symlink_to(folder.parent / "elsewhere")
    rename(folder, "sub/model.onnx")


def symlink_loop(folder: Path) -> None:
    missing(folder)
    (folder / "model.onnx").symlink_to("model.onnx")


def broken_json(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"name": ')


def no_utf8(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b'{"name": "\xff"}')


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def wrong_type(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(labels="0123456789"))


def label_twice(folder: Path) -> None:
    edit(folder, lambda manifest: manifest.update(labels=["0", "0"]))


SPOILERS = [
    tampered, longer, missing, a_folder, leaving, absolute, leaving_inside, symlink_out, symlinked_folder, symlink_loop,
    nul_in_name, broken_json, no_utf8, deep_json, no_manifest, wrong_type, label_twice,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILERS)
def test_a_bundle_that_is_not_what_its_manifest_says_is_refused(bundle: Path, spoil: Callable[[Path], None]) -> None:
    spoil(bundle)
    with pytest.raises(ModelError):
        load(bundle)


def test_a_link_within_the_bundle_is_no_way_out(bundle: Path) -> None:
    (bundle / "model.onnx").rename(bundle / "real.onnx")
    (bundle / "model.onnx").symlink_to("real.onnx")
    assert load(bundle).model("cpu-int8") == (DIGITS / "model.onnx").read_bytes()


def test_the_digest_is_of_the_files_alone(bundle: Path) -> None:
    before = load(bundle).manifest.digest
    edit(bundle, lambda manifest: manifest.update(version="2.0.0"))
    assert load(bundle).manifest.digest == before
    with_model(bundle, b"another")
    assert load(bundle).manifest.digest != before
