"""The native operations under address and undefined-behaviour sanitizers, and that these would see."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import sanitized
from test_portable import CORE, HERE, NATIVE
from wheels import ROOT, Installed, build, install

pytestmark = pytest.mark.slow


def check_program(
    native: Path, folder: Path, flags: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    """Compile portable_check.cpp with the sources in `native`, run it, and return how it ended."""
    sanitized.require()
    program = str(folder / "check")
    sources = [str(HERE / "portable_check.cpp"), *(str(native / name) for name in CORE)]
    subprocess.run(
        [
            sanitized.compiler(),
            "-std=c++17",
            "-pthread",
            *flags,
            f"-I{native}",
            *sources,
            "-o",
            program,
        ],
        check=True,
    )
    return subprocess.run(
        [program], env=sanitized.environment(), capture_output=True, text=True, timeout=300
    )


def changed(folder: Path, name: str, old: str, new: str) -> Path:
    """Return a copy of the native sources in which one piece of text is another."""
    native = folder / "native"
    shutil.copytree(NATIVE, native)
    text = (native / name).read_text()
    assert text.count(old) == 1, f"{name} no longer has {old!r}"
    (native / name).write_text(text.replace(old, new))
    return native


def test_the_operations_have_no_fault(tmp_path: Path) -> None:
    done = check_program(NATIVE, tmp_path, sanitized.FLAGS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("0 failed, hash ")


@pytest.mark.parametrize(
    ("name", "old", "new", "report"),
    [
        (
            "label_map.cpp",
            "std::min(cells, counts_.size()) - 1",
            "cells - 1",
            "heap-buffer-overflow",
        ),
        (
            "label_math.h",
            "static_cast<std::int32_t>(clipped * 255.0f + 0x1.8p23f)",
            "static_cast<std::int32_t>(clipped * 255.0f + 0x1.8p33f)",
            "outside the range of representable values",
        ),
    ],
    ids=["address", "undefined"],
)
def test_a_fault_is_seen(tmp_path: Path, name: str, old: str, new: str, report: str) -> None:
    done = check_program(changed(tmp_path, name, old, new), tmp_path, sanitized.FLAGS)
    assert done.returncode == sanitized.FAULT, done.stdout + done.stderr
    assert report in done.stderr


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    sanitized.require()
    settings = {"cmake.define.DEDOS_SANITIZE": "ON", "cmake.define.DEDOS_CUDA": "OFF"}
    wheel = build("wheel", ROOT, tmp_path_factory.mktemp("wheel"), settings)
    return install(wheel, tmp_path_factory.mktemp("venv"))


def run(
    module: Installed, cwd: Path, *arguments: str, timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run Python with the sanitized module."""
    # Python links neither; without the second, exceptions could not be told where to go on.
    preloaded = ("libasan.so", "libstdc++.so")
    return subprocess.run(
        [str(module.python), "-I", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=sanitized.environment(preloaded=preloaded),
        timeout=timeout_s,
    )


def test_the_module_s_tests_find_no_fault(module: Installed, tmp_path: Path) -> None:
    names = (
        "label_map",
        "blend",
        "read_curves",
        "confusion_native",
        "majority",
        "connect",
        "outline",
        "pixel_scores",
        "nv12",
        "dlpack",
        "stabilise",
    )
    files = (*(f"native/test_{name}.py" for name in names), "attack/test_native.py")
    done = run(
        module,
        tmp_path,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--config-file={ROOT / 'pyproject.toml'}",
        f"--rootdir={ROOT}",
        # What it takes to import torch here says nothing of ours.
        "-k",
        "not torch",
        *(str(ROOT / "tests" / name) for name in files),
        timeout_s=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    assert " passed" in done.stdout


def test_the_module_is_the_sanitized_one(module: Installed, tmp_path: Path) -> None:
    code = (
        "import numpy as np; from dedos_deploy import _native\n"
        "shape = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1, 9, 9), (324, 36, 4))\n"
        "ids = np.zeros((4, 4), np.uint8)\n"
        "_native.label_map(shape, np.zeros(1, np.float32), np.zeros(1, np.uint16), ids, ids.copy(),"
        " np.zeros(2, np.uint64), 1)"
    )
    done = run(module, tmp_path, "-c", code)
    assert done.returncode == sanitized.FAULT, done.stdout + done.stderr
    assert "heap-buffer-overflow" in done.stderr
