"""Memory of a process, as Linux counts it."""

from __future__ import annotations

from pathlib import Path


def memory_mb(field: str = "VmRSS", *, process: int | None = None) -> float:
    """Return a field of a process's status in MiB: VmRSS is resident now, VmHWM at its peak.

    process: its number, None for this one.

    Raises RuntimeError where there is no such field, as on other systems than Linux.
    """
    status = Path("/proc", "self" if process is None else str(process), "status")
    for line in status.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{status} has no {field}; this measurement needs Linux")
