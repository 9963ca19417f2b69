"""How many CPU threads to start."""

from __future__ import annotations

import os

from dedos_deploy.errors import BadInputError


def usable_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_threads(most: int | None = None) -> int:
    """Return how many CPU threads to start where `most` are allowed, None for any number.

    Never more than usable cores: they would only wait for each other, and 20,000 of them take the
    machine down. Raises BadInputError for a number below 1.
    """
    if most is not None and most < 1:
        raise BadInputError(f"threads must be at least 1, not {most}; leave it out for all")
    return usable_cores() if most is None else min(most, usable_cores())
