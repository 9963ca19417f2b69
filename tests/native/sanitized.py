"""Builds that end at the first memory or arithmetic fault, by the compiler's sanitizers."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

# Those of DEDOS_SANITIZE in CMakeLists.txt.
FLAGS = (
    "-O1",
    "-g",
    "-fno-omit-frame-pointer",
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
)
FAULT = 99
"""Exit status of a process that a sanitizer ended."""


def compiler() -> str:
    found = shutil.which("g++") or shutil.which("c++")
    assert found is not None, "the native module was built, so there is a C++ compiler"
    return found


def require() -> None:
    """Skip the calling test where the compiler has no sanitizers."""
    why = _why_not()
    if why is not None:
        pytest.skip(why)


@functools.cache
def _why_not() -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("int main() { return 0; }\n")
        program = str(Path(folder, "probe"))
        made = subprocess.run([compiler(), *FLAGS, str(source), "-o", program], capture_output=True)
        if made.returncode != 0 or subprocess.run([program], env=environment()).returncode != 0:
            return (
                f"{compiler()} makes no programs with sanitizers; install its libasan and libubsan"
            )
    return None


def environment(*, preloaded: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment of a sanitized process.

    preloaded: libraries that a program needs which is not sanitized itself, as Python.
    """
    values = {
        **os.environ,
        # Python keeps objects until it ends, so leaks cannot be told from that.
        "ASAN_OPTIONS": f"detect_leaks=0:exitcode={FAULT}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:exitcode={FAULT}",
        # Small objects get fences of their own, too.
        "PYTHONMALLOC": "malloc",
    }
    if preloaded:
        values["LD_PRELOAD"] = " ".join(_library(name) for name in preloaded)
    return values


def _library(name: str) -> str:
    done = subprocess.run(
        [compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return os.path.realpath(done.stdout.strip())
