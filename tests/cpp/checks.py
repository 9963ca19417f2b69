"""check.cpp built under a sanitizer."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bindings import ROOT, UNITY, run

FAULT = 99
"""Exit status of a process that a sanitizer ended."""


def build(folder: Path, sanitizer: str, sources: Path = ROOT) -> Path:
    """Return the program; sources: what holds tests/ and runtime/."""
    place = folder / sanitizer
    source = sources / "tests" / "cpp"
    run("cmake", "-S", str(source), "-B", str(place), f"-DDEDOS_SANITIZE={sanitizer}", *UNITY)
    run("cmake", "--build", str(place), "--parallel", "2", "--target", "check")
    return place / "check"


def call(program: Path, *words: str | Path, given: bytes = b"") -> bytes:
    """Run the program on `given` and return what it prints, in which no fault was seen."""
    done = attempt(program, *words, given=given)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-6000:]
    return done.stdout


def attempt(
    program: Path, *words: str | Path, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    values = {
        **os.environ,
        "ASAN_OPTIONS": f"exitcode={FAULT}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:exitcode={FAULT}",
        # ONNX Runtime is not built for it, so that its own locks are not seen.
        "TSAN_OPTIONS": f"ignore_noninstrumented_modules=1:exitcode={FAULT}",
    }
    command = [str(program), *map(str, words)]
    return subprocess.run(command, input=given, capture_output=True, env=values, timeout=300)
