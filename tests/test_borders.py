"""The border to other libraries: what is turned, what passes, and where the original is kept."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dedos_deploy.borders import (
    OLDEST_ONNX_RUNTIME,
    foreign,
    foreign_items,
    onnx_runtime_advice,
    plain_reason,
    spoken_reason,
)
from dedos_deploy.errors import BadBundleError, SourceError


class PanicException(BaseException):
    """As pyo3 names what a panic of a library in Rust becomes."""


def refusal(reason: str) -> SourceError:
    return SourceError(f"it cannot be read ({reason})")


@pytest.mark.parametrize(
    "error",
    [
        KeyError("secret"),
        MemoryError(),
        RecursionError(),
        AssertionError(),
        OverflowError(),
        UnicodeDecodeError("utf-8", b"secret", 0, 1, "why"),
        PanicException("secret"),
        OSError(5, "Input/output error"),
    ],
)
def test_anything_of_a_library_is_one_sentence_and_its_traceback_in_the_log(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceError) as caught, foreign(refusal):
        raise error
    assert "secret" not in str(caught.value) and caught.value.__cause__ is error
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG and record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, BadBundleError])
def test_what_is_ours_or_the_users_passes(kind: type[BaseException]) -> None:
    with pytest.raises(kind), foreign(refusal):
        raise kind


def test_items_stop_at_the_first_failure() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    found = []
    with pytest.raises(SourceError, match="ZeroDivisionError"):
        found += [found.append(item) for item in foreign_items(items(), refusal)]
    assert found == [1]
    assert list(foreign_items([], refusal)) == []


def test_reasons() -> None:
    assert plain_reason(PermissionError(13, "Permission denied")) == "Permission denied"
    message = "[ONNXRuntimeError] : 1 : FAIL : Type Error: Add\x1b[2J\n of node 'x'."
    assert spoken_reason(RuntimeError(message)) == "Type Error: Add?[2J of node 'x'"
    assert len(spoken_reason(RuntimeError("x" * 10_000))) == 200


OLD_RUNTIME = (
    "[ONNXRuntimeError] : 1 : FAIL : Load model from /home/me/model.onnx failed:"
    "/onnxruntime_src/onnxruntime/core/graph/model.cc:179 onnxruntime::Model::Model(onnx::ModelProto&&, "
    "const onnxruntime::PathString&, const onnxruntime::IOnnxRuntimeOpSchemaRegistryList*, "
    "const onnxruntime::logging::Logger&, const onnxruntime::ModelOptions&) Unsupported model IR "
    "version: 10, max supported IR version: 9"
)


def test_what_onnx_runtime_says_is_not_lost_behind_its_sources() -> None:
    assert spoken_reason(RuntimeError(OLD_RUNTIME)).endswith(
        "failed: Unsupported model IR version: 10, max supported IR version: 9"
    )


def test_an_onnx_runtime_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    assert f"than {onnxruntime.__version__}" in onnx_runtime_advice()
    monkeypatch.setattr(onnxruntime, "__version__", "1.17.3")
    assert onnx_runtime_advice() == (
        "onnxruntime 1.17.3 is installed and 1.20 or newer is needed; "
        "run: pip install 'onnxruntime>=1.20'"
    )


def test_the_oldest_onnx_runtime_is_the_promised_one() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    promised = re.findall(r'"onnxruntime(?:-gpu)?>=(\d+)\.(\d+)"', project)
    assert len(promised) == 2
    assert {tuple(map(int, pair)) for pair in promised} == {OLDEST_ONNX_RUNTIME}
