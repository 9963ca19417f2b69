"""Memory of this process, as Linux counts it."""

from __future__ import annotations

from pathlib import Path


def memory_mb(field: str = "VmRSS") -> float:
    """Return a field of this process's status in MiB: VmRSS is resident now, VmHWM at its peak.

    Raises RuntimeError where there is no such field, as on other systems than Linux.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}; this measurement needs Linux")
