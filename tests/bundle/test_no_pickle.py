"""Nothing that the package reads or writes can carry code: no pickle in any disguise."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import dedos_deploy

MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
TORCH = {"load", "save"}
PUBLISHED = Path("dedos_deploy", "model", "tensor_files.py")
"""Reads what others published as .pth, which only torch can, and lets it make tensors only."""


def sources() -> list[Path]:
    # os.walk: training, export, calib and runtime are links in a checkout, and rglob skips links.
    walk = os.walk(Path(dedos_deploy.__file__).parent, followlinks=True)
    return [
        Path(folder) / name for folder, _, names in walk for name in names if name[-3:] == ".py"
    ]


def pickles(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name of every import or call that (un)pickles."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            for name in names:
                if name.split(".")[0] in MODULES or name in {f"torch.{verb}" for verb in TORCH}:
                    yield node.lineno, name
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "torch" and node.attr in TORCH:
                yield node.lineno, f"torch.{node.attr}"
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                yield node.value.lineno, "allow_pickle"


def test_the_package_never_pickles() -> None:
    files = sources()
    assert len(files) > 10 and {"bundle.py", "manifest.py"} <= {path.name for path in files}
    found = [
        f"{path}:{line}: {name}"
        for path in files
        for line, name in pickles(ast.parse(path.read_text(encoding="utf-8")))
        if path.parts[-3:] != PUBLISHED.parts
    ]
    assert found == []


def test_published_checkpoints_are_read_by_the_restricted_unpickler_only() -> None:
    (path,) = (path for path in sources() if path.parts[-3:] == PUBLISHED.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert [name for _, name in pickles(tree)] == ["torch.load"]
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    )
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    assert given["weights_only"] == "True"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    torch.load(path, weights_only=True)",
        "from torch import save",
        "np.load(path, allow_pickle=flag)",
    ],
)
def test_the_search_finds_pickles(source: str) -> None:
    assert len(list(pickles(ast.parse(source)))) == 1
