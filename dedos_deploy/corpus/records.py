"""What a data set of labels holds: its description, and a row per labelled frame.

`dataset.json` is the description, `labels/part-000012.parquet` the rows of shard 12. A part is written
whole or not at all and always has the name of its shard, so that a shard labelled twice replaces itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, require
from dedos_deploy.fields import FieldError, checked, load_json
from dedos_deploy.format_version import check_not_newer

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

FORMAT_VERSION: Final = 1
INFO_FILE = "dataset.json"
LABELS = "labels"
PURPOSE = "labelled corpora"
ROWS_PER_GROUP = 128
"""Frames whose label maps are in memory at once, while a part is read or written."""

MAX_ID = 65535
"""What 16 bits of a label map hold."""

_SHARD = b"dedos.shard"
_NOTES = b"dedos.notes"


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """One row of a data set: a frame and its labels."""

    key: str
    """Unique per frame of the corpus, the same whenever it is labelled: source and frame."""

    source: str
    """Address of the picture, video, recording, Parquet file or tar that the frame is from."""

    frame: int
    """Number of the frame, row or sample in its source, from 0; 0 of a picture."""

    time_s: float | None
    """Position in a recording in seconds, None for what has no times."""

    width: int
    """Pixels."""

    height: int
    """Pixels."""

    label_map_png: bytes
    """PNG of one channel: class ids, 8 bits, or 16 where ids need it."""

    confidence_png: bytes | None
    """PNG of one channel, 8 bits: 255 times the winning score; None where it was not kept."""

    margin: float
    """How far the scores are from their thresholds on average, in [0, 1], times the frame's trust where the
    bundle has statistics: the lower, the less sure."""

    class_ids: tuple[int, ...]
    """Ids that occur in the label map, rising, without that of unlabelled pixels."""

    counts: tuple[int, ...]
    """Pixels of each of `class_ids`."""

    bundle_sha256: str
    """Hash of the manifest of the bundle that labelled it."""

    words_sha256: str
    """Hash of the words, and of their rows where these were tuned."""

    @cached_property
    def label_map(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Class ids, uint8 or uint16 [H, W]; the data set's `none_id` where nothing was named.

        Decoded when it is first asked for. Raises BadInputError when the PNG is damaged.
        """
        return _grey(self, self.label_map_png, "label map", (np.uint8, np.uint16))

    @cached_property
    def confidence(self) -> NDArray[np.uint8] | None:
        """255 times the winning score, uint8 [H, W]; None where it was not kept. Raises BadInputError."""
        if self.confidence_png is None:
            return None
        return _grey(self, self.confidence_png, "confidence", (np.uint8,))


def _grey(row: LabelledFrame, png: bytes, what: str, dtypes: tuple[type, ...]) -> NDArray[Any]:
    import cv2

    from dedos_deploy.pictures import decode_picture

    name = f"the {what} of {row.key!r}"
    found = decode_picture(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED, name=name)
    if found is None or found.dtype not in dtypes or found.shape != (row.height, row.width):
        raise BadInputError(
            f"{name} is damaged: no grey PNG of {row.width}x{row.height}; remove the part that holds it "
            "and label the corpus again"
        )
    return found


@dataclass(frozen=True)
class CorpusClass:
    """A class of a data set."""

    id: int
    """Its value in label maps."""

    name: str
    """Its first word."""

    colour: str
    """Its colour in pictures, `#rrggbb`."""

    entry: str
    """Name, synonyms, threshold and colour as they were given, such as `car|automobile@0.3`."""


@dataclass(frozen=True)
class CorpusInfo:
    """What `dataset.json` says.

    Raises BadInputError for ids or names that are there twice, and ids that no label map holds.
    """

    format_version: Literal[1]
    """FORMAT_VERSION of what wrote it."""

    bundle: str
    """What the bundle was opened as."""

    bundle_sha256: str
    """Hash of its manifest, which holds those of all its files; empty for labels of nobody's bundle."""

    words_sha256: str
    """As of LabelledFrame."""

    classes: tuple[CorpusClass, ...]
    """In the order of their ids."""

    none_id: int
    """Value of unlabelled pixels: 255, or 65535 where label maps have 16 bits."""

    settings: dict[str, Any]
    """What else decides the labels and which frames there are: JSON values."""

    def __post_init__(self) -> None:
        for what in ("id", "name"):
            values = [getattr(entry, what) for entry in self.classes]
            if len(set(values)) < len(values):
                raise BadInputError(
                    f"two classes of the data set have one {what}; give each its own"
                )
        for number in (self.none_id, *(entry.id for entry in self.classes)):
            if not 0 <= number <= MAX_ID:
                raise BadInputError(
                    f"the data set has the id {number}, and label maps hold 0 to {MAX_ID}; give its classes "
                    "other ids"
                )

    @property
    def names(self) -> dict[int, str]:
        """Name of every class, by its id."""
        return {entry.id: entry.name for entry in self.classes}

    def to_json(self) -> str:
        """Return the text of `dataset.json`."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"


def info_from_json(text: str, name: str) -> CorpusInfo:
    """Return what `CorpusInfo.to_json` wrote.

    name: of the file, for messages. Raises BadInputError, and UnsupportedVersionError for a newer format.
    """
    try:
        values = load_json(text)
        if isinstance(values, dict):
            version = values.get("format_version")
            check_not_newer(version, FORMAT_VERSION, what=f"{name}: field 'format_version'")
        info: CorpusInfo = checked(CorpusInfo, values, "")
    except FieldError as error:
        raise BadInputError(f"{name} is no description of a data set: {error}") from error
    return info


def part_name(shard: int) -> str:
    """Return the name of a shard's part within the data set.

    >>> part_name(12)
    'labels/part-000012.parquet'
    """
    return f"{LABELS}/part-{shard:06d}.parquet"


def schema(shard: int | None = None) -> pa.Schema:
    """Return the columns of a part. shard: its number, which the file keeps, None for any."""
    pa = require("pyarrow", extra="corpus", purpose=PURPOSE)
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("frame", pa.int64(), nullable=False),
        pa.field("time_s", pa.float64()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("label_map", pa.binary(), nullable=False),
        pa.field("confidence", pa.binary()),
        pa.field("margin", pa.float32(), nullable=False),
        pa.field("class_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("counts", pa.list_(pa.int64()), nullable=False),
        pa.field("bundle_sha256", pa.string(), nullable=False),
        pa.field("words_sha256", pa.string(), nullable=False),
    ]
    kept = None if shard is None else {_SHARD: str(shard).encode()}
    return pa.schema(fields, metadata=kept)


_NAMES = {"label_map": "label_map_png", "confidence": "confidence_png"}
"""Columns whose fields are called otherwise, since these hold what is not decoded yet."""


@dataclass
class PartNotes:
    """What a part says besides its rows: why frames of its shard are not among them."""

    errors: list[dict[str, Any]] = field(default_factory=list)
    """JSON objects: `source`, `frame`, `stop` (the frame after the last one, null for to the end) and
    `error`, or for what was only odd `source` and `warning`."""

    ends: dict[str, int] = field(default_factory=dict)
    """Number of frames that a source turned out to have, where its end was met."""


def write_part(
    path: Path | BinaryIO, shard: int, rows: Iterable[LabelledFrame], notes: PartNotes | None = None
) -> int:
    """Write the rows of a shard as a Parquet file, few at a time; return how many there were.

    path: a file that nobody reads yet; notes: read when the last row was taken. Raises OSError.
    """
    pa = require("pyarrow", extra="corpus", purpose=PURPOSE)
    parquet = require("pyarrow.parquet", extra="corpus", purpose=PURPOSE)
    columns, count = schema(shard), 0
    # Label maps are compressed already, and addresses repeat from row to row.
    with parquet.ParquetWriter(
        path, columns, compression="zstd", use_dictionary=["source"]
    ) as file:
        for group in _groups(rows):
            count += len(group)
            listed = {
                name: [getattr(row, _NAMES.get(name, name)) for row in group]
                for name in columns.names
            }
            file.write_table(pa.table(listed, columns))
        file.add_key_value_metadata({_NOTES: json.dumps(asdict(notes or PartNotes()))})
    return count


def _groups(rows: Iterable[LabelledFrame]) -> Iterator[list[LabelledFrame]]:
    group: list[LabelledFrame] = []
    for row in rows:
        group.append(row)
        if len(group) == ROWS_PER_GROUP:
            yield group
            group = []
    if group:
        yield group


def frame_of(values: Mapping[str, Any]) -> LabelledFrame:
    """Return a row of a part, as pyarrow gives it, by the names of the columns."""
    named = {_NAMES.get(name, name): value for name, value in values.items()}
    named["class_ids"] = tuple(named["class_ids"])
    named["counts"] = tuple(named["counts"])
    return LabelledFrame(**named)


def shard_of(metadata: Mapping[bytes, bytes] | None) -> int | None:
    """Return the shard whose rows a Parquet file with this metadata holds, None if it does not say."""
    text = (metadata or {}).get(_SHARD, b"").decode("ascii", "replace")
    return int(text) if text.isdigit() else None


def notes_of(metadata: Mapping[bytes, bytes] | None) -> PartNotes:
    """Return what a part with this metadata says besides its rows."""
    return PartNotes(**json.loads((metadata or {}).get(_NOTES, b"{}")))
