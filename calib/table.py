"""The calibration table: ranges in a readable file, and what they are valid for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.calib.histogram import MagnitudeHistogram
from dedos_deploy.calib.options import Estimator
from dedos_deploy.calib.partial import remove_partial_states
from dedos_deploy.calib.ranges import RangeOptions, tensor_ranges
from dedos_deploy.calib.selection import data_sha256
from dedos_deploy.errors import BadInputError, SinkError, shown
from dedos_deploy.fields import FieldError, checked, load_json
from dedos_deploy.files import read_regular, sha256_of_file, write_atomically
from dedos_deploy.format_version import check_not_newer

FORMAT = 1

_MEANINGS = {
    "model_sha256": "another model",
    "preprocessing": "another preprocessing",
    "data_sha256": "other frames",
    "frames": "another number of frames",
    "text_sha256": "another vocabulary",
    "estimator": "another estimator",
    "parameters": "other parameters",
}


@dataclass(frozen=True)
class CalibrationKey:
    """What ranges depend on: a table is valid for this and nothing else."""

    model_sha256: str
    """Hash of the FP32 graph, see model_sha256."""

    preprocessing: str
    """See preprocessing_of."""

    data_sha256: str
    """Hash of the frames, in any order."""

    frames: int
    """Number of frames."""

    text_sha256: str
    """Hash of the text embeddings."""

    estimator: Estimator
    """Name of the estimator of ranges."""

    parameters: dict[str, float]
    """Numbers of the estimator, and those of smoothing."""

    @property
    def sha256(self) -> str:
        """One hash of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def calibration_key(
    model: Path,
    frames: list[NDArray[np.uint8]] | tuple[NDArray[np.uint8], ...],
    text_embeddings: NDArray[np.float32],
    options: RangeOptions,
    *,
    smoothing: Mapping[str, float] | None = None,
) -> CalibrationKey:
    """Return the key of a calibration that is to be made.

    model: file of the FP32 graph, not smoothed; frames: uint8 [H0, W0, 3] each, at least one;
    text_embeddings: float32 [K, D]; smoothing: numbers that smoothing depends on, by name.
    """
    shape = "x".join(map(str, text_embeddings.shape)).encode()
    return CalibrationKey(
        model_sha256=model_sha256(model),
        preprocessing=preprocessing_of(frames[0].shape[:2]),
        data_sha256=data_sha256(frames),
        frames=len(frames),
        text_sha256=hashlib.sha256(shape + text_embeddings.tobytes()).hexdigest(),
        estimator=options.estimator,
        parameters={**options.parameters, **(smoothing or {})},
    )


@dataclass(frozen=True)
class CalibrationTable:
    """Ranges of the activations of one graph.

    Raises BadInputError naming a tensor whose numbers cannot be ranges.
    """

    key: CalibrationKey
    """What the ranges are valid for."""

    ranges: Mapping[str, float]
    """`amax` per tensor, the |x| that INT8 level 127 stands for, in the units of the tensor, 0 for a
    tensor that was always zero."""

    maxima: Mapping[str, float]
    """Max |x| seen per tensor, at least amax."""

    source: str
    """Where the frames came from, without credentials."""

    onnxruntime: str
    """Version that ran the graph, for the record only."""

    channel_maxima: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Max |x| per channel of the tensors that were smoothed, so that smoothing can be repeated
    without running the graph."""

    def __post_init__(self) -> None:
        for name in sorted(self.ranges.keys() ^ self.maxima.keys()):
            raise BadInputError(f"tensor {shown(name)} needs both a range and a max")
        for name, amax in self.ranges.items():
            if not (isfinite(amax) and 0.0 <= amax <= self.maxima[name] < float("inf")):
                raise BadInputError(
                    f"tensor {shown(name)} has range {amax:g} and max {self.maxima[name]:g}; a range "
                    f"is finite, not negative, and not beyond the max"
                )
        for name, values in self.channel_maxima.items():
            if not all(isfinite(value) and value >= 0.0 for value in values):
                raise BadInputError(
                    f"tensor {shown(name)} has a maximum per channel that is negative or not finite"
                )

    @classmethod
    def of(
        cls,
        key: CalibrationKey,
        histograms: Mapping[str, MagnitudeHistogram],
        options: RangeOptions,
        *,
        source: str,
        channel_maxima: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> CalibrationTable:
        """Return the table of what collect_histograms and channel_maxima found."""
        import onnxruntime

        return cls(
            key,
            tensor_ranges(histograms, options),
            {name: histogram.max for name, histogram in histograms.items()},
            source if source.isprintable() else ascii(source),
            str(onnxruntime.__version__),
            {name: tuple(map(float, row)) for name, row in (channel_maxima or {}).items()},
        )

    def save(self, path: Path) -> None:
        """Write the table whole or not at all, and remove partial states beside it.

        Raises SinkError.
        """
        try:
            write_atomically(path, self.to_json().encode())
        except OSError as error:
            raise SinkError(
                f"the calibration table {str(path)!r} cannot be written "
                f"({error.strerror or error}); make room or choose another place"
            ) from error
        remove_partial_states(path)

    @classmethod
    def load(cls, path: Path) -> CalibrationTable:
        """Return the table of a file.

        Raises BadInputError naming the file and the first field that is wrong,
        UnsupportedVersionError for a newer format.
        """
        where = f"calibration table {str(path)!r}"
        try:
            content = read_regular(path, limit=_MAX_TABLE)
        except OSError as error:
            raise BadInputError(f"{where} cannot be read: {error.strerror or error}") from error
        try:
            record = _parsed(content.decode(), where)
            return cls(
                record.key,
                record.ranges,
                record.max,
                record.source,
                record.onnxruntime,
                record.channel_max,
            )
        except (FieldError, BadInputError, UnicodeDecodeError) as error:
            raise BadInputError(f"{where}: {error}; remove it to calibrate again") from error

    def check_key(self, key: CalibrationKey, path: Path) -> None:
        """Raise BadInputError naming the first field in which the table at `path` differs."""
        for each in fields(CalibrationKey):
            have, want = getattr(self.key, each.name), getattr(key, each.name)
            if have != want:
                raise BadInputError(
                    f"calibration table {str(path)!r} is for {_MEANINGS[each.name]}: its "
                    f"{each.name} is {_short(have)}, not {_short(want)}; remove it or name another "
                    f"file to calibrate again"
                )

    def to_json(self) -> str:
        """Return what `save` writes."""
        record = {
            "format": FORMAT,
            "key": asdict(self.key),
            "source": self.source,
            "onnxruntime": self.onnxruntime,
            "ranges": dict(self.ranges),
            "max": dict(self.maxima),
        }
        head = json.dumps(record, indent=2, allow_nan=False, ensure_ascii=False)
        # One line per tensor: a thousand channels, one a line, would hide everything else.
        lines = (
            f"    {json.dumps(name, ensure_ascii=False)}: {json.dumps(values, allow_nan=False)}"
            for name, values in self.channel_maxima.items()
        )
        channels = "{\n" + ",\n".join(lines) + "\n  }" if self.channel_maxima else "{}"
        return head.removesuffix("\n}") + f',\n  "channel_max": {channels}\n}}\n'


@dataclass(frozen=True)
class _Record:
    """What the file holds."""

    format: Literal[1]
    key: CalibrationKey
    source: str
    onnxruntime: str
    ranges: dict[str, float]
    max: dict[str, float]
    channel_max: dict[str, tuple[float, ...]]


def reuse_or_none(path: Path, key: CalibrationKey) -> CalibrationTable | None:
    """Return the table at `path` if it is for `key`, None if there is no file.

    Raises BadInputError when it is damaged or for something else: ranges of another model or other
    frames are never used, and a file is never replaced unasked.
    """
    if not path.exists():
        return None
    table = CalibrationTable.load(path)
    table.check_key(key, path)
    return table


_MAX_TABLE = 256 << 20
_SHA256 = re.compile("[0-9a-f]{64}")


def model_sha256(path: Path) -> str:
    """Return the hash of an ONNX file, joined by `+` with that of its external data if it has any."""
    digest = sha256_of_file(path)
    external = path.with_name(path.name + ".data")
    return f"{digest}+{sha256_of_file(external)}" if external.is_file() else digest


def preprocessing_of(size_hw: tuple[int, ...]) -> str:
    """Return what happens to a frame before the graph, in words that change when it does.

    >>> preprocessing_of((448, 448))
    'BGR uint8, stretched to 448x448 (area down, bilinear up)'
    """
    return "BGR uint8, stretched to {}x{} (area down, bilinear up)".format(*size_hw)


def _parsed(text: str, where: str) -> _Record:
    values = load_json(text)
    if not isinstance(values, dict):
        raise FieldError("must hold one JSON object")
    remedy = "remove the table to calibrate again"
    check_not_newer(values.get("format"), FORMAT, what=f"{where}: field 'format'", otherwise=remedy)
    record: _Record = checked(_Record, values, "")
    for name in ("model_sha256", "data_sha256", "text_sha256"):
        value: str = getattr(record.key, name)
        if not all(map(_SHA256.fullmatch, value.split("+"))):
            raise FieldError(f"field 'key.{name}' must be a SHA-256, not {shown(value)}")
    return record


def _short(value: Any) -> str:
    written = str(value)
    return f"{written[:12]}…" if len(written) >= 64 else repr(value)
