"""Who may import whom, and no clock or randomness in a core. The contracts stand in pyproject.toml."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tomllib

ROOT = Path(__file__).resolve().parent.parent
LINTER = Path(sys.executable).parent / "lint-imports"
PACKAGES = ("shared", "edge_agent", "cloud_hub")


def contracts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return found


def cores() -> list[str]:
    """The files that must be pure, relative to the repository: what the contract's patterns name, and all below."""
    (contract,) = [one for one in contracts() if one["name"] == "cores do no I/O"]
    patterns = [
        re.compile(re.escape(one.replace(".", "/")).replace(r"\*\*", ".+") + r"(/.+)?\.py")
        for one in contract["source_modules"]
    ]
    files = [str(file.relative_to(ROOT)) for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    return sorted(file for file in files if any(pattern.fullmatch(file) for pattern in patterns))


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    if not LINTER.exists():
        pytest.skip("import-linter is not installed in this environment")
    environment = os.environ | {"PYTHONPATH": str(folder), "NO_COLOR": "1"}
    command = [str(LINTER), "--no-cache", "--config", str(folder / "pyproject.toml")]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_layers_hold() -> None:
    found = lint(ROOT)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, to be spoiled."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "assets")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("edge_agent/runtime/event_loop.py", "import cloud_hub.clock", "the two programs stand above the wire"),
        ("shared/protocol/topics.py", "import edge_agent.clock", "the two programs stand above the wire"),
        ("edge_agent/pipeline/core/limit_rules.py", "import socket", "cores do no I/O"),
        ("cloud_hub/thresholds/bands/fit.py", "import random", "cores do no I/O"),
        ("edge_agent/twin/core/twin.py", "import shared.transport.mqtt", "cores do no I/O"),
        ("edge_agent/config/__init__.py", "import edge_agent.pipeline.core.limit_rules", "layers of the edge agent"),
        ("cloud_hub/twins/service.py", "import cloud_hub.incidents.service", "layers of the hub"),
        ("cloud_hub/thresholds/scores/model.py", "import cloud_hub.database.sessions", "layers of the hub"),
        ("shared/protocol/messages.py", "import shared.twin.shadow", "layers of the wire"),
    ],
)
def test_a_seeded_breach_is_caught(tree: Path, file: str, line: str, broken: str) -> None:
    spoiled = tree / file
    spoiled.write_text(spoiled.read_text("utf-8") + f"\n{line}\n", "utf-8")
    found = lint(tree)
    assert found.returncode != 0
    assert any(text.startswith(broken) and " BROKEN" in text for text in found.stdout.splitlines()), found.stdout


FORBIDDEN = {"time", "random", "secrets", "os", "socket", "threading", "subprocess", "asyncio", "sqlite3"}
NOW = {"now", "utcnow", "today", "uuid1", "uuid4"}


def breaches(source: str) -> list[str]:
    """Imports of clocks, randomness and I/O, and calls that ask for the present, however they are spelled."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module or ""]
        found += [name for name in names if name.partition(".")[0] in FORBIDDEN]
        if isinstance(node, ast.Attribute) and node.attr in NOW:
            found.append(ast.unparse(node))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in {"np.random", "numpy.random"}:
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"__import__", "open", "eval", "exec"}:
            found.append(ast.unparse(node.func))
    return found


def test_no_core_asks_for_time_or_chance() -> None:
    assert {file: found for file in cores() if (found := breaches((ROOT / file).read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import time", "from time import monotonic", "def f():\n    import random", "import os.path",
        "from datetime import datetime\ndatetime.now()", "import datetime\ndatetime.datetime.utcnow()",
        "import uuid\nuuid.uuid4()", "import numpy as np\nnp.random.default_rng()", "__import__('time')", "open('x')",
    ],
)  # fmt: skip
def test_the_search_finds_a_seeded_breach(source: str) -> None:
    assert breaches(source)


def test_the_search_knows_the_cores() -> None:
    assert len(cores()) >= 90
    assert {
        "cloud_hub/query/core/parser.py",
        "cloud_hub/thresholds/scores/compiled/step.py",
        "shared/twin/shadow.py",
    } <= set(cores())
