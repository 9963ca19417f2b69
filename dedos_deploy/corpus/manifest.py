"""The manifest of a corpus: every source, cut into shards that are labelled one by one.

`manifest.parquet` has a row per piece: its shard, source, first frame, the frame after its last one (null:
to the end), step, how many frames that is, and what tells its version of the source from another, as far as
these are known. Pieces of a shard follow each other.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dedos_deploy.borders import foreign
from dedos_deploy.corpus.inputs import Counted
from dedos_deploy.corpus.records import PURPOSE
from dedos_deploy.errors import BadInputError, require

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST_FILE = "manifest.parquet"
MOST_FRAMES = 500
"""Of a shard, where nobody says otherwise: what is lost when a worker is killed."""
LEAST_FRAMES = 16
_SHARDS_PER_WORKER = 8
_ROWS_PER_GROUP = 8192
_ERRORS = b"dedos.errors"
_STAMP = "stamp"


@dataclass(frozen=True)
class Piece:
    """Frames of one source: `start`, `start + step`, … before `stop`."""

    source: str
    start: int = 0
    stop: int | None = None
    step: int = 1
    expected: int | None = None
    """How many frames there are, None where that is only known once they were read."""

    stamp: str | None = None
    """Of the source when it was listed, as `versions.Versions.of` gives it."""

    @property
    def wanted(self) -> range:
        """Numbers of the frames, as far as there are so many; those of an open end go on for ever."""
        return range(self.start, 2**62 if self.stop is None else self.stop, self.step)


def frame_key(source: str, number: int) -> str:
    """Return the key of a frame, which is the same whenever and wherever it is labelled.

    >>> frame_key("s3://clips/a.mp4", 12)
    's3://clips/a.mp4#12'
    """
    return f"{source}#{number}"


def frames_per_shard(frames: int, workers: int) -> int:
    """Return a size of shards that keeps all workers busy to the end.

    >>> frames_per_shard(10_000_000, 8), frames_per_shard(1000, 2), frames_per_shard(30, 2)
    (500, 62, 16)
    """
    return min(MOST_FRAMES, max(LEAST_FRAMES, frames // (_SHARDS_PER_WORKER * workers)))


def wanted_pieces(
    listed: Iterable[tuple[int, Counted]], *, every: int, most: int | None
) -> Iterator[Piece]:
    """Yield one piece per source. listed: number of the input, and source, in order.

    every: of recordings, Parquet files and tars one frame in so many is wanted, and so of the pictures of
    one input; most: frames in all, None for no limit. Raises BadInputError for a source that two
    inputs name.
    """
    seen: set[str] = set()
    left, of_input, pictures = most, -1, 0
    for number, item in listed:
        if item.source in seen:
            raise BadInputError(
                f"{item.source!r} is named twice by the inputs, and its frames would have one key; name "
                "it once"
            )
        seen.add(item.source)
        is_picture = item.frames == 1 and item.is_exact
        of_input, pictures = number, (pictures + 1 if number == of_input else 1)
        if item.error or left == 0 or (is_picture and (pictures - 1) % every):
            continue
        piece = _piece(item, every, left)
        if left is not None:
            left -= left if piece.expected is None else piece.expected
        if piece.expected != 0:
            yield piece


def _piece(item: Counted, every: int, left: int | None) -> Piece:
    """Return the wanted frames of a source, at most `left`."""
    count = None if item.frames is None else len(range(0, item.frames, every))
    if left is not None and (count is None or count >= left):
        last, expected = (left - 1) * every, left if count else None
        return Piece(item.source, 0, last + 1, every, expected, item.stamp)
    # A container may say less than there is, so that the last frame is where it ends.
    stop = item.frames if item.is_exact else None
    return Piece(item.source, 0, stop, every, count, item.stamp)


def cut(pieces: Iterable[Piece], size: int) -> Iterator[tuple[int, Piece]]:
    """Yield pieces with the number of their shard, of about `size` frames each.

    Sources with more frames are cut; of those whose number is not known each is a shard.

    >>> [(n, p.start, p.stop) for n, p in cut([Piece("a", 0, 5, 1, 5), Piece("b", 0, 2, 1, 2)], 3)]
    [(0, 0, 3), (1, 3, 5), (2, 0, 2)]
    """
    shard, filled = 0, 0
    for whole in pieces:
        for piece in _ranges(whole, size):
            frames = size if piece.expected is None else piece.expected
            if filled and filled + frames > size:
                shard, filled = shard + 1, 0
            yield shard, piece
            filled += frames


def _ranges(piece: Piece, size: int) -> Iterator[Piece]:
    while piece.expected is not None and piece.expected > size:
        after = piece.start + size * piece.step
        yield replace(piece, stop=after, expected=size)
        piece = replace(piece, start=after, expected=piece.expected - size)
    yield piece


def _columns() -> pa.Schema:
    pa = require("pyarrow", extra="corpus", purpose=PURPOSE)
    return pa.schema(
        [
            pa.field("shard", pa.int64(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("start", pa.int64(), nullable=False),
            pa.field("stop", pa.int64()),
            pa.field("step", pa.int64(), nullable=False),
            pa.field("expected", pa.int64()),
            pa.field(_STAMP, pa.string()),
        ]
    )


def manifest_bytes(rows: Iterable[tuple[int, Piece]], errors: Iterable[Counted] = ()) -> bytes:
    """Return the content of `manifest.parquet`. errors: sources of which nothing can be read, which are
    looked at once `rows` was gone through."""
    pa = require("pyarrow", extra="corpus", purpose=PURPOSE)
    parquet = require("pyarrow.parquet", extra="corpus", purpose=PURPOSE)
    content, columns = io.BytesIO(), _columns()
    with parquet.ParquetWriter(content, columns, compression="zstd") as file:
        group: list[dict[str, Any]] = []
        for shard, piece in rows:
            group.append({"shard": shard, **vars(piece)})
            if len(group) == _ROWS_PER_GROUP:
                file.write_table(pa.Table.from_pylist(group, columns))
                group = []
        file.write_table(pa.Table.from_pylist(group, columns))
        said = [
            {"source": one.source, "frame": 0, "stop": None, "error": one.error} for one in errors
        ]
        file.add_key_value_metadata({_ERRORS: json.dumps(said)})
    return content.getvalue()


class Manifest:
    """A manifest opened for reading, by shards and by any thread; only what tells shards apart is held in
    memory."""

    def __init__(self, content: bytes, name: str) -> None:
        """content: of the file; name: of it, for messages. Raises BadInputError."""
        pa = require("pyarrow", extra="corpus", purpose=PURPOSE)
        parquet = require("pyarrow.parquet", extra="corpus", purpose=PURPOSE)
        with foreign(lambda why: BadInputError(f"{name} is damaged ({why}); make a new data set")):
            self._file = parquet.ParquetFile(pa.BufferReader(content))
            table = self._file.read(columns=["shard", "start", "expected"])
        said = (self._file.metadata.metadata or {}).get(_ERRORS)
        columns, found = _columns(), self._file.schema_arrow
        # Those of earlier versions have no stamps.
        older = columns.remove(columns.get_field_index(_STAMP))
        if said is None or not (found.equals(columns) or found.equals(older)):
            raise BadInputError(f"{name} has not the columns of a manifest; make a new data set")
        self.errors: list[dict[str, Any]] = json.loads(said)
        """As of PartNotes, of sources that have no shard."""
        shards = table.column("shard").to_numpy()
        self._first = np.searchsorted(shards, np.arange(shards[-1] + 2 if len(shards) else 1))
        self._continues = table.column("start").to_numpy()[self._first[:-1]] > 0
        expected = table.column("expected").fill_null(0).to_numpy()
        self._expected = np.add.reduceat(expected, self._first[:-1]) if len(shards) else expected
        self.is_counted = table.column("expected").null_count == 0
        """Whether all numbers of frames are known beforehand."""
        self._group: tuple[int, list[dict[str, Any]]] = (-1, [])
        # A ParquetFile is not to be read by two threads at once.
        self._reading = threading.Lock()

    def __len__(self) -> int:
        """Return how many shards there are."""
        return len(self._first) - 1

    def frames(self, shard: int) -> int:
        """Return how many frames a shard has, as far as they are known beforehand."""
        return int(self._expected[shard])

    def continues(self, shard: int) -> bool:
        """Return whether a shard goes on in the source with which the one before it ends."""
        return bool(self._continues[shard])

    def pieces(self, shard: int) -> list[Piece]:
        """Return what a shard consists of."""
        rows = range(int(self._first[shard]), int(self._first[shard + 1]))
        with self._reading:
            return [self._piece(row) for row in rows]

    def _piece(self, row: int) -> Piece:
        group = row // _ROWS_PER_GROUP
        if self._group[0] != group:
            self._group = group, self._file.read_row_group(group).to_pylist()
        values = dict(self._group[1][row % _ROWS_PER_GROUP])
        del values["shard"]
        return Piece(**values)
