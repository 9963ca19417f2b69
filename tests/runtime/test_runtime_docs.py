"""Examples in docstrings hold, and importing the runtime stays light."""

from __future__ import annotations

import ast
import configparser
import doctest
import importlib
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dedos_deploy.runtime
from dedos_deploy.cli.run import build_parser

DOCS = Path(__file__).parents[2] / "docs"

PREFIX = "dedos_deploy.runtime."
MODULES = [
    module.name.removeprefix(PREFIX)
    for module in pkgutil.walk_packages(dedos_deploy.runtime.__path__, PREFIX)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(f"dedos_deploy.runtime.{name}")
    assert doctest.testmod(module).failed == 0


def test_fields_are_described_where_they_stand() -> None:
    package = Path(dedos_deploy.runtime.__file__).parents[1]
    paths = [
        path
        for room in (package, *(child for child in package.iterdir() if child.is_dir()))
        for path in room.rglob("*.py")
    ]
    assert len(paths) > 50
    listed = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.decorator_list:
                text = " ".join((ast.get_docstring(node) or "").split())
                fields = [
                    one.target.id
                    for one in node.body
                    if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
                ]
                # As in "height, width: in pixels; batch: ...".
                listed += [
                    f"{node.name}.{name}"
                    for name in fields
                    if re.search(rf"(^|[;.,] ){name}: ", text)
                ]
    assert listed == []


def test_import_brings_numpy_at_most() -> None:
    heavy = ("cv2", "onnxruntime", "tokenizers", "torch", "onnx", "safetensors", "scipy")
    code = (
        "import sys, dedos_deploy.runtime\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["cameras.md", "watch.md", "service.md"])
def test_command_lines_in_the_docs_are_understood(name: str) -> None:
    text = (DOCS / name).read_text().replace("\\\n", " ")
    lines = re.findall(r"^(?:ExecStart=\S*/)?dedos-run (.+)$", text, re.MULTILINE)
    lines += re.findall(r"^docker run .* dedos +(--source .+)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        args = build_parser().parse_args(shlex.split(line))
        assert args.source or args.camera is not None


def test_the_systemd_unit_is_one(tmp_path: Path) -> None:
    text = (DOCS / "service.md").read_text()
    (unit,) = re.findall(r"```ini\n(.*?)```", text, re.DOTALL)
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit)
    assert list(parser) == ["DEFAULT", "Unit", "Service", "Install"]
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("needs systemd-analyze: apt install systemd")
    path = tmp_path / "dedos.service"
    # The program and its settings are not there; all else must be known to systemd.
    unit = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", unit, flags=re.MULTILINE)
    path.write_text(unit)
    done = subprocess.run(
        [verify, "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if str(path) in line]
    assert complaints == []
