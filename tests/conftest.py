"""Tests marked `gpu` run where there is one, and are skipped with the reason elsewhere."""

from __future__ import annotations

import functools
import os

import pytest


@functools.cache
def why_no_gpu() -> str | None:
    """Return why no GPU can be used here, None when one can."""
    from dedos_deploy.errors import DedosError
    from dedos_deploy.runtime.gpu.cuda import Cuda

    try:
        Cuda.open()
    except (DedosError, ImportError) as error:
        return str(error)
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    why = why_no_gpu()
    if why is None:
        return
    if os.environ.get("DEDOS_REQUIRE_GPU") == "1":
        pytest.fail(f"DEDOS_REQUIRE_GPU=1, but {why}", pytrace=False)
    pytest.skip(why)
