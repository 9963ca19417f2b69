"""The calibration table: ranges in a readable file, and what they are valid for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.calib.histogram import MagnitudeHistogram
from dedos_deploy.calib.options import ESTIMATORS
from dedos_deploy.calib.partial import remove_partial_states
from dedos_deploy.calib.ranges import RangeOptions, tensor_ranges
from dedos_deploy.calib.selection import data_sha256
from dedos_deploy.calib.strict_json import count, number, read_record, text
from dedos_deploy.errors import BadInputError, SinkError, UnsupportedVersionError, shown
from dedos_deploy.files import read_regular, sha256_of_file, write_atomically

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

    estimator: str
    """Name of the estimator of ranges."""

    parameters: Mapping[str, float]
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
            source,
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
        record = _parsed(path, where)
        if isinstance(record, dict) and isinstance(record.get("format"), int):
            _check_format(record["format"], where)
        values = read_record(record, _readers(where), where=where)
        try:
            return cls(
                CalibrationKey(**values["key"]),
                values["ranges"],
                values["max"],
                values["source"],
                values["onnxruntime"],
                values["channel_max"],
            )
        except BadInputError as error:
            raise BadInputError(f"{where}: {error}") from error

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


def _parsed(path: Path, where: str) -> Any:
    try:
        content = read_regular(path, limit=_MAX_TABLE)
    except OSError as error:
        raise BadInputError(f"{where} cannot be read: {error.strerror or error}") from error
    try:
        return json.loads(content, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{where} is damaged: {error}; remove it to calibrate again") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{shown(name)} comes twice")
        values[name] = value
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number that a range can have")


def _check_format(found: int, where: str) -> None:
    if found > FORMAT:
        raise UnsupportedVersionError(
            f"{where} has format {found}, this version reads up to {FORMAT}; update dedos-deploy "
            f"or remove it to calibrate again"
        )


def _format(value: Any) -> int:
    if count(value) != FORMAT:
        raise ValueError(f"{value} is unknown, {FORMAT} is the only one there is")
    return FORMAT


def _by_name(read: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    """Return a reader of an object whose values are read by `read`."""

    def read_all(values: Any) -> dict[str, Any]:
        if not isinstance(values, dict):
            raise TypeError(f"an object is needed, not {type(values).__name__}")
        found: dict[str, Any] = {}
        for name, value in values.items():
            try:
                found[name] = read(value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{shown(name)}: {error}") from error
        return found

    return read_all


def _row(values: Any) -> tuple[float, ...]:
    if not isinstance(values, list):
        raise TypeError(f"a list is needed, not {type(values).__name__}")
    return tuple(number(value) for value in values)


def _sha256(value: Any) -> str:
    for part in text(value).split("+"):
        if len(part) != 64 or not set(part) <= set("0123456789abcdef"):
            raise ValueError(f"{shown(value)} is not a SHA-256")
    return str(value)


def _estimator(value: Any) -> str:
    if value not in ESTIMATORS:
        raise ValueError(f"{shown(value)} is none of {', '.join(ESTIMATORS)}")
    return str(value)


_KEY_READERS: dict[str, Callable[[Any], Any]] = {
    "model_sha256": _sha256,
    "preprocessing": text,
    "data_sha256": _sha256,
    "frames": count,
    "text_sha256": _sha256,
    "estimator": _estimator,
    "parameters": _by_name(number),
}


def _readers(where: str) -> dict[str, Callable[[Any], Any]]:
    return {
        "format": _format,
        "key": lambda value: read_record(value, _KEY_READERS, where=f"'key' of {where}"),
        "source": text,
        "onnxruntime": text,
        "ranges": _by_name(number),
        "max": _by_name(number),
        "channel_max": _by_name(_row),
    }


def _short(value: Any) -> str:
    written = str(value)
    return f"{written[:12]}…" if len(written) >= 64 else repr(value)
