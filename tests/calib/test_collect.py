"""What is collected of a graph: numpy's numbers, whatever the order, and after an interruption."""

from __future__ import annotations

import errno
import logging
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from calib_micro import features_of, micro_graph
from numpy.typing import NDArray

from dedos_deploy.calib import collect, partial
from dedos_deploy.calib.collect import (
    SAVE_EVERY,
    CalibrationInputs,
    Resume,
    channel_maxima,
    collect_histograms,
)
from dedos_deploy.calib.histogram import MagnitudeHistogram
from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.progress import Progress
from dedos_deploy.spec import GraphSpec

TENSORS = ("features", "products", "scores")
Collect = Callable[..., dict[str, Any]]


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two results are equal bit by bit."""
    if one.keys() != other.keys():
        return False
    return all(
        value == other[name]
        if isinstance(value, MagnitudeHistogram)
        else np.array_equal(value.view(np.uint32), other[name].view(np.uint32))
        for name, value in one.items()
    )


def test_maxima_are_those_of_numpy(inputs: CalibrationInputs) -> None:
    found = channel_maxima(inputs, ["features"], threads=1)["features"]
    expected = np.max([np.abs(features_of(frame)).max(axis=(0, 1)) for frame in inputs.frames], 0)
    assert found.dtype == np.float32 and found.shape == (6,)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_histograms_are_those_of_numpy(inputs: CalibrationInputs) -> None:
    found = collect_histograms(inputs, ["pixels", "features"], threads=1)
    pixels = np.stack(inputs.frames).astype(np.float32)
    assert found["pixels"] == MagnitudeHistogram.of(pixels, name="pixels")
    features = np.stack([features_of(frame) for frame in inputs.frames])
    assert found["features"].total == features.size
    assert found["features"].max == pytest.approx(np.abs(features).max(), rel=1e-5)


def test_the_model_in_memory_stays_as_it_is(inputs: CalibrationInputs, tmp_path: Path) -> None:
    assert isinstance(inputs.model, onnx.ModelProto)
    before = inputs.model.SerializeToString(deterministic=True)
    in_memory = collect_histograms(inputs, TENSORS, threads=1)
    assert inputs.model.SerializeToString(deterministic=True) == before
    path = tmp_path / "model.onnx"
    onnx.save(inputs.model, os.fspath(path))
    assert _same(collect_histograms(replace(inputs, model=path), TENSORS, threads=1), in_memory)
    onnx.save(
        inputs.model,
        os.fspath(path),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    assert (tmp_path / "model.onnx.data").is_file()
    assert _same(collect_histograms(replace(inputs, model=path), TENSORS, threads=1), in_memory)


@pytest.mark.parametrize("gather", [channel_maxima, collect_histograms])
def test_the_order_of_frames_changes_nothing(inputs: CalibrationInputs, gather: Collect) -> None:
    expected = gather(inputs, TENSORS, threads=1)
    for seed in range(3):
        frames = list(inputs.frames)
        random.Random(seed).shuffle(frames)
        assert _same(gather(replace(inputs, frames=frames), TENSORS, threads=1), expected)
    fewer = gather(replace(inputs, frames=inputs.frames[:1]), TENSORS, threads=1)
    assert not _same(fewer, expected)


def test_a_batch_counts_every_frame_alike(
    inputs: CalibrationInputs, spec: GraphSpec, frames: list[NDArray[np.uint8]]
) -> None:
    single = collect_histograms(inputs, ["features"], threads=1)["features"]
    batched = replace(inputs, model=micro_graph(3), spec=replace(spec, batch=3))
    found = collect_histograms(batched, ["features"], threads=1)["features"]
    assert np.array_equal(found.counts, 3 * single.counts) and found.max == single.max


class Interrupt(Progress):
    """Presses Ctrl-C after `after` frames."""

    def __init__(self, after: int) -> None:
        self.after, self.seen = after, list[tuple[int, int]]()

    def count(self, done: int, total: int, unit: str = "image") -> None:
        self.seen.append((done, total))
        if done == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("gather", [channel_maxima, collect_histograms])
@pytest.mark.parametrize("after", [1, SAVE_EVERY, SAVE_EVERY + 2, 11])
def test_an_interrupted_collection_goes_on_to_the_same_bits(
    inputs: CalibrationInputs, tmp_path: Path, gather: Collect, after: int
) -> None:
    expected = gather(inputs, TENSORS, threads=1)
    resume = Resume(tmp_path / "table.json", "a model")
    with pytest.raises(KeyboardInterrupt):
        gather(inputs, TENSORS, threads=1, resume=resume, progress=Interrupt(after))
    shuffled = replace(inputs, frames=list(reversed(inputs.frames)))
    second = Interrupt(-1)
    found = gather(shuffled, TENSORS, threads=1, resume=resume, progress=second)
    assert _same(found, expected)
    saved = 11 if after == 11 else after // SAVE_EVERY * SAVE_EVERY
    assert second.seen == [(done, 11) for done in range(saved + 1, 12)]


def test_a_state_of_something_else_is_not_gone_on_with(
    inputs: CalibrationInputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resume = Resume(tmp_path / "table.json", "a model")
    with pytest.raises(KeyboardInterrupt):
        collect_histograms(inputs, TENSORS, threads=1, resume=resume, progress=Interrupt(4))
    state = (tmp_path / "table.json.histograms.partial").read_bytes()
    others = {
        "model": (inputs, TENSORS, replace(resume, key="another model")),
        "frames": (replace(inputs, frames=inputs.frames[1:]), TENSORS, resume),
        "text": (replace(inputs, text=-inputs.text), TENSORS, resume),
        "tensors": (inputs, TENSORS[:2], resume),
    }
    for name, (changed, tensors, point) in others.items():
        (tmp_path / "table.json.histograms.partial").write_bytes(state)
        progress = Interrupt(-1)
        with caplog.at_level(logging.WARNING):
            found = collect_histograms(changed, tensors, threads=1, resume=point, progress=progress)
        assert progress.seen[0][0] == 1, name
        assert _same(found, collect_histograms(changed, tensors, threads=1)), name
    assert caplog.text.count("belongs to another model, other frames") == 4


def test_a_damaged_state_is_not_gone_on_with(
    inputs: CalibrationInputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "table.json.maxima.partial"
    path.write_bytes(b"\x10\0\0\0\0\0\0\0{not json")
    resume = Resume(tmp_path / "table.json", "a model")
    found = channel_maxima(inputs, TENSORS, threads=1, resume=resume)
    assert _same(found, channel_maxima(inputs, TENSORS, threads=1))
    assert "maxima.partial cannot be read" in caplog.text


def test_a_full_disk_leaves_no_half_written_state(
    inputs: CalibrationInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(partial, "write_atomically", full)
    resume = Resume(tmp_path / "table.json", "a model")
    with pytest.raises(SinkError, match="table.json.maxima.partial' .No space left.*make room"):
        channel_maxima(inputs, TENSORS, threads=1, resume=resume)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    channel_maxima(inputs, TENSORS, threads=1, resume=resume)


@pytest.mark.parametrize("gather", [channel_maxima, collect_histograms])
def test_what_is_not_finite_is_refused_with_tensor_and_frame(
    inputs: CalibrationInputs, frames: list[NDArray[np.uint8]], gather: Collect
) -> None:
    """The logarithm of a negative feature is NaN, that of a zero is infinite."""
    with pytest.raises(BadInputError, match=r"frame \d+: tensor 'logarithms' has a NaN or an inf"):
        gather(inputs, ["features", "logarithms"], threads=1)
    black = [*frames[:2], np.zeros_like(frames[0])]
    silent = replace(inputs, frames=black)
    assert gather(silent, ["features"], threads=1)


def test_tensors_that_cannot_be_collected_are_named(inputs: CalibrationInputs) -> None:
    with pytest.raises(BadInputError, match="no tensor 'featurs', did you mean 'features'"):
        collect_histograms(inputs, ["featurs"], threads=1)
    with pytest.raises(BadInputError, match="'sides' is int64; only float tensors"):
        collect_histograms(inputs, ["sides"], threads=1)
    with pytest.raises(BadInputError, match=r"'sides' is int64 \[4\]; only float tensors"):
        channel_maxima(inputs, ["sides"], threads=1)


def test_inputs_are_checked(inputs: CalibrationInputs) -> None:
    with pytest.raises(BadInputError, match="no calibration frames"):
        replace(inputs, frames=[])
    wide = [*inputs.frames, np.zeros((12, 17, 3), np.uint8)]
    with pytest.raises(BadInputError, match=r"frame 11 is uint8 \[12, 17, 3\] .*\[12, 16, 3\]"):
        replace(inputs, frames=wide)
    with pytest.raises(BadInputError, match=r"float32 \[K, 6\] with K ≥ 1, not \[5, 5\]"):
        replace(inputs, text=inputs.text[:, :5])
    with pytest.raises(BadInputError, match="must be finite float32"):
        replace(inputs, text=inputs.text * np.float32(np.nan))


def test_memory_does_not_hold_outputs_of_past_frames(
    inputs: CalibrationInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a tensor is counted, those before it are gone."""
    left: list[int] = []
    with_frame = collect._with_frame

    def watched(kind: Any, found: Any, outputs: dict[str, Any], frame: str) -> Any:
        result = with_frame(kind, found, outputs, frame)
        left.append(len(outputs))
        return result

    monkeypatch.setattr(collect, "_with_frame", watched)
    collect_histograms(inputs, TENSORS, threads=1)
    assert left == [0] * len(inputs.frames)
