"""dedos-run as a process of its own, for what signals do to it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

COMMAND = [sys.executable, "-c", "from dedos_deploy.cli.run import main; raise SystemExit(main())"]


def start(bundle: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start it on a bundle; its stdout and stderr are pipes."""
    return subprocess.Popen(
        [*COMMAND, "--bundle", str(bundle), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(
    process: subprocess.Popen[str], lines: Path, count: int, *, timeout_s: float = 120.0
) -> None:
    """Wait until a growing file has so many lines; fail when the process ends before."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s and process.poll() is None:
        if lines.exists() and lines.read_text().count("\n") >= count:
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"{count} lines did not come; stderr: {process.communicate()[1]}")
