"""How many CPU threads to start."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from dedos_deploy.errors import BadInputError

PROC = Path("/proc/self")
LIBRARY_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",
    "RAYON_NUM_THREADS",
)
"""What PyTorch, NumPy, OpenCV and tokenizers read, once, when they are loaded."""

_QUOTA_OF = {"cgroup2": ("cpu.max",), "cgroup": ("cpu.cfs_quota_us", "cpu.cfs_period_us")}


def usable_cores() -> int:
    """Return how many cores this process may run on at once.

    Those that it is bound to, and no more than the time that a container or service may use, rounded
    up: two threads that share half a core only stop each other in the middle of their work.
    """
    bound = _bound_cores()
    return max(1, min([bound, *map(math.ceil, _quotas())]))


def usable_threads(most: int | None = None) -> int:
    """Return how many CPU threads to start where `most` are allowed, None for any number.

    Never more than usable cores: they would only wait for each other, and 20,000 of them take the
    machine down. Raises BadInputError for a number below 1.
    """
    if most is not None and most < 1:
        raise BadInputError(f"threads must be at least 1, not {most}; leave it out for all")
    return usable_cores() if most is None else min(most, usable_cores())


def limit_libraries() -> None:
    """Let libraries that count cores without quotas start no more threads, for command lines.

    Works only before they are loaded; a user's own setting stays.
    """
    if (cores := usable_cores()) < _bound_cores():
        for variable in LIBRARY_VARIABLES:
            os.environ.setdefault(variable, str(cores))


@contextlib.contextmanager
def libraries_limited(threads: int) -> Iterator[None]:
    """Let the libraries of processes that are started inside the block start so many threads."""
    before = {variable: os.environ.get(variable) for variable in LIBRARY_VARIABLES}
    os.environ.update(dict.fromkeys(LIBRARY_VARIABLES, str(threads)))
    try:
        yield
    finally:
        for variable, value in before.items():
            os.environ.pop(variable, None)
            if value is not None:
                os.environ[variable] = value


def _bound_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quotas() -> Iterator[float]:
    """Yield the cores' worth of time that this process's control groups allow, where they are bound."""
    for kind, top, group in _cpu_groups():
        folders = [group, *group.parents]
        for folder in folders[: folders.index(top) + 1]:
            try:
                numbers = [(folder / name).read_text() for name in _QUOTA_OF[kind]]
                quota, period = map(float, " ".join(numbers).split())
            except (OSError, ValueError):
                continue  # a top has no quota, and `max` is none
            if quota > 0 and period > 0:
                yield quota / period


def _cpu_groups() -> Iterator[tuple[str, Path, Path]]:
    """Yield the file system, the outermost folder and that of this process, per hierarchy with CPUs."""
    try:
        mounts = (PROC / "mountinfo").read_text(errors="surrogateescape").splitlines()
        groups = (PROC / "cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return  # no Linux, or hidden
    paths = dict(line.split(":", 2)[1:] for line in groups if line.count(":") > 1)
    for line in mounts:
        before, _, after = line.partition(" - ")
        root, top = before.split(" ")[3:5]
        kind, *_, controllers = after.split(" ")
        for names, path in paths.items():
            ours = kind == "cgroup2" and not names
            if ours or (
                kind == "cgroup" and "cpu" in names.split(",") and "cpu" in controllers.split(",")
            ):
                inner = os.path.relpath(path, root)
                # Outside what is mounted, as a container sees its own group: the mount is that group.
                known = not inner.startswith("..")
                yield kind, Path(top), Path(top, inner) if known else Path(top)
