"""What the tensors of a graph reach on calibration frames: maxima per channel, histograms.

Frames run one at a time, in the order of their hashes, and only counts are kept: memory does not
grow with their number, and neither their order nor an interruption changes the result by a bit.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from dedos_deploy.borders import NO_RETRY, foreign, spoken_reason
from dedos_deploy.calib.histogram import MagnitudeHistogram
from dedos_deploy.calib.partial import PartialState
from dedos_deploy.calib.selection import frame_sha256
from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.files import read_regular
from dedos_deploy.pictures import Picture
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.engines.onnx_runtime import session_options
from dedos_deploy.spec import GraphSpec

log = logging.getLogger(__name__)

SAVE_EVERY = 4
"""Frames between two saved states."""

Statistic = TypeVar("Statistic")


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationInputs:
    """What a graph is run on.

    Raises BadInputError for frames or text that do not fit `spec`.
    """

    model: Path | onnx.ModelProto
    """FP32 graph with the tensors of `spec`, a file or in memory."""

    spec: GraphSpec
    frames: Sequence[Picture]
    """uint8 [H0, W0, 3] BGR at the network size."""

    text: NDArray[np.float32]
    """float32 [K, D] text embeddings, unit rows, of the vocabulary that the engine will typically
    see."""

    def __post_init__(self) -> None:
        shape = (self.spec.height, self.spec.width, 3)
        if not self.frames:
            raise BadInputError("there are no calibration frames; give at least one")
        for index, frame in enumerate(self.frames):
            if frame.shape != shape or frame.dtype != np.uint8:
                raise BadInputError(
                    f"calibration frame {index} is {frame.dtype} {list(frame.shape)} instead of "
                    f"uint8 {list(shape)}; resize it to the network size"
                )
        if self.text.ndim != 2 or self.text.shape[1] != self.spec.text_width or not len(self.text):
            raise BadInputError(
                f"text embeddings must be float32 [K, {self.spec.text_width}] with K ≥ 1, not "
                f"{list(self.text.shape)}"
            )
        if self.text.dtype != np.float32 or not np.isfinite(self.text).all():
            raise BadInputError(
                f"text embeddings must be finite float32, these are {self.text.dtype} or hold a "
                f"NaN; encode the vocabulary again"
            )


@dataclass(frozen=True)
class Resume:
    """Where an interrupted collection finds what it had."""

    table: Path
    """The file the calibration table will have, the state is kept beside it."""

    key: str
    """Names the model and whatever else the caller knows to change the activations."""


def channel_maxima(
    inputs: CalibrationInputs,
    tensors: Sequence[str],
    *,
    threads: int | None = None,
    resume: Resume | None = None,
    progress: Progress = QUIET,
) -> dict[str, NDArray[np.float32]]:
    """Return max |x| over all frames and all axes but the last, float32 [C] per tensor.

    threads: of ONNX Runtime, None for all cores; progress: counts frames.
    Raises BadInputError naming a tensor that the graph lacks, that is not float, or that has a NaN
    or infinity, with its frame; SinkError when the state cannot be written.
    """
    return _collect(_MAXIMA, inputs, tensors, threads, resume, progress)


def collect_histograms(
    inputs: CalibrationInputs,
    tensors: Sequence[str],
    *,
    threads: int | None = None,
    resume: Resume | None = None,
    progress: Progress = QUIET,
) -> dict[str, MagnitudeHistogram]:
    """Return the histogram of |x| over all frames per tensor; arguments as in channel_maxima."""
    return _collect(_HISTOGRAMS, inputs, tensors, threads, resume, progress)


@dataclass(frozen=True)
class _Kind(Generic[Statistic]):
    """One kind of statistic: taken of a tensor, merged exactly, stored as arrays."""

    name: str
    of: Callable[[NDArray[Any], str], Statistic]
    merged: Callable[[Statistic, Statistic], Statistic]
    to_arrays: Callable[[Statistic], dict[str, NDArray[Any]]]
    from_arrays: Callable[[Mapping[str, NDArray[Any]]], Statistic]


def _maxima_of(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    if values.dtype not in (np.float32, np.float16) or values.ndim == 0:
        raise BadInputError(
            f"tensor {name!r} is {values.dtype} {list(values.shape)}; only float tensors with a "
            f"last axis have maxima per channel"
        )
    rows = values.reshape(-1, values.shape[-1]).astype(np.float32, copy=False)
    # Not abs first: that would be a copy of the whole tensor. NaN comes through both.
    maxima = np.maximum(rows.max(axis=0), -rows.min(axis=0))
    if not np.isfinite(maxima).all():
        raise BadInputError(f"tensor {name!r} has a NaN or an infinity; check the model")
    return np.asarray(maxima + np.float32(0.0), np.float32)


_MAXIMA: _Kind[NDArray[np.float32]] = _Kind(
    "maxima",
    of=_maxima_of,
    merged=np.maximum,
    to_arrays=lambda maxima: {"max": maxima},
    from_arrays=lambda arrays: arrays["max"],
)
_HISTOGRAMS: _Kind[MagnitudeHistogram] = _Kind(
    "histograms",
    of=lambda values, name: MagnitudeHistogram.of(values, name=name),
    merged=MagnitudeHistogram.merged,
    to_arrays=lambda each: {"counts": each.counts, "max": np.array([each.max])},
    from_arrays=lambda arrays: MagnitudeHistogram(arrays["counts"], float(arrays["max"][0])),
)


def _collect(
    kind: _Kind[Statistic],
    inputs: CalibrationInputs,
    tensors: Sequence[str],
    threads: int | None,
    resume: Resume | None,
    progress: Progress,
) -> dict[str, Statistic]:
    if not tensors:
        return {}
    digests = [frame_sha256(frame) for frame in inputs.frames]
    order = sorted(range(len(digests)), key=digests.__getitem__)
    state = None
    if resume is not None:
        key = _key(resume.key, inputs, tensors, sorted(digests))
        state = PartialState(resume.table, kind=kind.name, key=key)
    done, found = _restored(kind, state, tensors)
    run = _runner(inputs, list(dict.fromkeys(tensors)), threads) if done < len(order) else None
    for index in order[done:]:
        assert run is not None
        found = _with_frame(kind, found, run(inputs.frames[index]), f"calibration frame {index}")
        done += 1
        if state is not None and (done % SAVE_EVERY == 0 or done == len(order)):
            state.save(done, _flat(kind, found))
        progress.count(done, len(order), "frame")
    return found


def _with_frame(
    kind: _Kind[Statistic],
    found: Mapping[str, Statistic],
    outputs: dict[str, NDArray[Any]],
    frame: str,
) -> dict[str, Statistic]:
    """Return `found` with what one frame adds; a new dict, so that an interrupt leaves the old."""
    merged: dict[str, Statistic] = {}
    for name in list(outputs):
        try:
            # Popped: each output is freed as soon as it is counted.
            statistic = kind.of(outputs.pop(name), name)
        except BadInputError as error:
            raise BadInputError(f"{frame}: {error}") from error
        merged[name] = kind.merged(found[name], statistic) if name in found else statistic
    return merged


def _runner(
    inputs: CalibrationInputs, names: list[str], threads: int | None
) -> Callable[[Picture], dict[str, NDArray[Any]]]:
    spec = inputs.spec
    session = _session(inputs.model, names, threads)
    feed: dict[str, NDArray[Any]] = {
        spec.text.name: np.ascontiguousarray(inputs.text),
        spec.valid.name: np.ones(len(inputs.text), np.float32),
    }

    def run(frame: Picture) -> dict[str, NDArray[Any]]:
        # The same frame in every row of the batch: counts grow alike, ranges stay what they are.
        image = np.ascontiguousarray(np.broadcast_to(frame, (spec.batch, *frame.shape)))
        outputs = session.run(names, {**feed, spec.image.name: image})
        return dict(zip(names, outputs, strict=True))

    return run


def _session(model: Path | onnx.ModelProto, tensors: Sequence[str], threads: int | None) -> Any:
    """Return an ONNX Runtime session that also gives `tensors`."""
    import onnxruntime

    options = session_options(threads)
    if isinstance(model, onnx.ModelProto):
        name, proto = "the graph", model
    else:
        name = repr(str(model))
        folder = os.fspath(model.parent)
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", folder
        )
        with foreign(partial(_unusable, name)):
            proto = onnx.load_model_from_string(read_regular(model))
    content = _with_outputs(proto, tensors)
    with foreign(partial(_unusable, name), reason=spoken_reason):
        return onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], **NO_RETRY
        )


def _unusable(name: str, reason: str) -> BadInputError:
    return BadInputError(f"{name} cannot be calibrated ({reason}); export the bundle again")


def _with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> bytes:
    """Return the bytes of `model` with `tensors` as outputs too; `model` stays as it is."""
    graph = model.graph
    known = {name for node in graph.node for name in node.output if name}
    for name in tensors:
        if name not in known:
            raise BadInputError(f"the graph has no tensor {name!r}{nearest(name, known)}")
    there = [value.name for value in graph.output]
    try:
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in there)
        return bytes(model.SerializeToString())
    finally:
        # Added and taken away again: a copy of the model would be a copy of its weights.
        del graph.output[len(there) :]


def _key(key: str, inputs: CalibrationInputs, tensors: Sequence[str], digests: list[str]) -> str:
    digest = hashlib.sha256(inputs.text.tobytes())
    for part in (key, *sorted(set(tensors)), "frames", *digests):
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def _flat(kind: _Kind[Statistic], found: Mapping[str, Statistic]) -> dict[str, NDArray[Any]]:
    return {
        f"{part}/{name}": array
        for name, statistic in found.items()
        for part, array in kind.to_arrays(statistic).items()
    }


def _restored(
    kind: _Kind[Statistic], state: PartialState | None, tensors: Sequence[str]
) -> tuple[int, dict[str, Statistic]]:
    stored = state.load() if state is not None else None
    if stored is None:
        return 0, {}
    done, flat = stored
    found: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in tensors}
    for key, array in flat.items():
        part, name = key.split("/", 1)
        found[name][part] = array
    log.info("calibration goes on after frame %d", done)
    return done, {name: kind.from_arrays(arrays) for name, arrays in found.items()}
