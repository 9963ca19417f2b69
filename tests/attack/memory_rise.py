"""How much memory a refused input costs, in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

# What reads is imported first, so that only what the input asks for is counted.
PROGRAM = """
import mcap.reader, rosbags.highlevel, zstandard, resource, cv2, sys
from dedos_deploy.errors import SourceError
from dedos_deploy.runtime import open_source
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = used()
try:
    list(open_source(sys.argv[1]))
except SourceError as error:
    print(used() - before, error)
"""


def peak_mb(path: Path, *, limit_gb: int) -> tuple[float, str]:
    """Return by how much reading raises the memory of a process, and with which sentence it ends.

    limit_gb: of address space; what takes an input for what it says fails, and swallows no machine.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit_gb << 30, limit_gb << 30))

    command = [sys.executable, "-c", PROGRAM, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert found.returncode == 0, found.stderr
    rise, _, sentence = found.stdout.partition(" ")
    return float(rise), sentence.strip()
