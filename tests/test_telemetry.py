"""Nothing that a library would tell its maker leaves the machine, or is kept on it to be told."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from dedos_deploy.telemetry import SWITCHED_OFF

ROOT = Path(__file__).parents[1]
LABEL = [
    sys.executable,
    "-m",
    "dedos_deploy.cli.run",
    *("--source", "scene:street?frames=2&size=64x96", "--classes", "road", "--output", "null"),
]
EVERY_LIBRARY = """
import importlib.util
import dedos_deploy
for name in ("onnxruntime", "cv2", "tokenizers", "huggingface_hub", "rerun", "foxglove", "torch"):
    if importlib.util.find_spec(name):
        importlib.import_module(name)
if importlib.util.find_spec("openvino"):
    from dedos_deploy.runtime.engines.openvino_engine import load_openvino
    load_openvino()
"""


def clean(home: Path, **more: str) -> dict[str, str]:
    """An environment that says nothing of telemetry, with a home of its own and caches elsewhere."""
    kept = {
        name: text
        for name, text in os.environ.items()
        if name not in SWITCHED_OFF and not name.startswith(("XDG_", "HF_", "DO_NOT"))
    }
    cache = home.with_name("cache")
    return {**kept, "HOME": str(home), "DEDOS_CACHE_DIR": str(cache), "CI": "", **more}


def files_left(home: Path, command: list[str], environment: Mapping[str, str]) -> set[str]:
    home.mkdir()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "command",
    [
        LABEL,
        [sys.executable, "-c", EVERY_LIBRARY],
        [sys.executable, str(ROOT / "benchmarks/int8.py"), "--help"],
    ],
    ids=["dedos-run", "library", "script"],
)
def test_nothing_is_written_into_the_home(command: list[str], tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert not files_left(home, command, clean(home))


def test_no_other_machine_is_spoken_to(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace, which is in .ci/debian-packages.txt")
    log, home = tmp_path / "calls.txt", tmp_path / "home"
    watched = [strace, "-f", "-qq", "-e", "trace=%network", "-o", str(log), *LABEL]
    files_left(home, watched, clean(home))
    assert not [line for line in log.read_text().splitlines() if "AF_INET" in line]


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    program = "import os, dedos_deploy\nprint(*(os.environ[name] for name in NAMES))"
    program = f"NAMES = {list(SWITCHED_OFF)}\n{program}"
    command = [sys.executable, "-c", program]
    home = tmp_path / "home"
    first = next(iter(SWITCHED_OFF))
    said = [
        subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment).stdout
        for environment in (clean(home), clean(home, **{first: "0"}))
    ]
    values = list(SWITCHED_OFF.values())
    assert [line.split() for line in said] == [values, ["0", *values[1:]]]


def early_imports(path: Path) -> Iterator[str]:
    """Libraries with telemetry that a file imports at its top before this package."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        roots = {name.split(".")[0] for name in names}
        if "dedos_deploy" in roots:
            return
        yield from roots & {"onnxruntime", "huggingface_hub", "transformers", "diffusers"}


def test_scripts_load_this_package_before_what_it_silences() -> None:
    """Modules of the package cannot be too early; tests follow `conftest.py`, which is in time."""
    scripts = [path for room in ("benchmarks", "examples") for path in (ROOT / room).rglob("*.py")]
    assert scripts and not {
        f"{path.name}: {name}"
        for path in [*scripts, ROOT / "tests" / "conftest.py"]
        for name in early_imports(path)
    }


def test_every_switch_is_documented() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert not [name for name in SWITCHED_OFF if f"`{name}=" not in page]
