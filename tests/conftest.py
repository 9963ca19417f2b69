"""What may be skipped: tests marked `gpu` where there is none, and nothing else where all is required.

`DEDOS_REQUIRE=all`, as `.ci/run` sets it, turns every other skip into a failure, so that a test whose
Debian package or Python package is missing is not passed over in silence. `DEDOS_REQUIRE_GPU=1` does
the same for the GPU.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import ModuleType

import pytest

import dedos_deploy  # noqa: F401  (before any test imports a library that would report home)

# A shell's background jobs ignore Ctrl-C, and so does all that they start: programs that a test ends by it
# would stay for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@contextlib.contextmanager
def _held_to_one_thread() -> Generator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread() -> Generator[None]:
    """torch with one thread: models of a few channels spend a second one's time on waiting for it."""
    with _held_to_one_thread():
        yield


@pytest.fixture
def one_thread_each() -> Generator[None]:
    """The same for every test anew, where what is tested chooses its threads itself."""
    with _held_to_one_thread():
        yield


@pytest.fixture(scope="session")
def benchmark_script() -> Callable[[str], ModuleType]:
    """Return what loads the script of that name in benchmarks/, beside whatever else has its name."""

    def load(name: str) -> ModuleType:
        path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    why = why_no_gpu()
    if why is None:
        return
    if os.environ.get("DEDOS_REQUIRE_GPU") == "1":
        pytest.fail(f"DEDOS_REQUIRE_GPU=1, but {why}", pytrace=False)
    pytest.skip(why)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.get_closest_marker("gpu") is None:
        _require(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    # A whole file that is skipped, as by importorskip at its top.
    report = yield
    if report.skipped:
        _require(report)
    return report


def _require(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure where everything is required."""
    if os.environ.get("DEDOS_REQUIRE") != "all" or hasattr(report, "wasxfail"):
        return
    why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"DEDOS_REQUIRE=all, but this test was skipped ({why})"
