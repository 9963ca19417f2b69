"""A data set of labels opened for reading: every frame of it once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dedos_deploy.borders import foreign, foreign_items
from dedos_deploy.closing import Closing
from dedos_deploy.corpus.folders import Folder, folder_at
from dedos_deploy.corpus.frames import FrameReader
from dedos_deploy.corpus.records import (
    INFO_FILE,
    LABELS,
    PURPOSE,
    ROWS_PER_GROUP,
    CorpusInfo,
    LabelledFrame,
    PartNotes,
    frame_of,
    info_from_json,
    notes_of,
    schema,
    shard_of,
)
from dedos_deploy.errors import BadInputError, require

if TYPE_CHECKING:
    import os

    from dedos_deploy.borders import Refusal
    from dedos_deploy.pictures import Picture


def open_corpus(path: str | os.PathLike[str]) -> Corpus:
    """Return the data set in a folder, which may be an address of fsspec, such as `s3://bucket/labels`.

    with open_corpus("labels") as corpus:
        for row in corpus:
            print(row.key, row.label_map.shape, corpus.picture(row).shape)

    Raises BadInputError where there is none, or its description is damaged.
    """
    folder = folder_at(str(path))
    info = read_info(folder)
    if info is None:
        raise BadInputError(
            f"{folder.address!r} holds no data set of labels, which has a {INFO_FILE}; make one with "
            "dedos-label"
        )
    return Corpus(folder, info)


def read_info(folder: Folder) -> CorpusInfo | None:
    """Return what a data set's description says, None where there is none. Raises BadInputError."""
    content = folder.read(INFO_FILE)
    if content is None:
        return None
    return info_from_json(content.decode("utf-8", "replace"), repr(folder.where(INFO_FILE)))


class Corpus(Closing):
    """A data set of labels; iterating gives one row per key, part by part.

    Few rows are in memory at once, however many there are. A row that is there twice, as after a part
    was copied, is given once.
    """

    def __init__(self, folder: Folder, info: CorpusInfo) -> None:
        self.folder = folder
        self.info = info
        self._reader: FrameReader | None = None

    @property
    def parts(self) -> list[str]:
        """Names of its Parquet files, such as `labels/part-000000.parquet`, sorted."""
        return [name for name in self.folder.names(LABELS) if name.endswith(".parquet")]

    def __len__(self) -> int:
        """Return how many rows there are; reads the keys."""
        return sum(1 for _ in self.rows(["key"]))

    def __iter__(self) -> Iterator[LabelledFrame]:
        return map(frame_of, self.rows(schema().names))

    def rows(self, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Yield some columns of every row, by name; one row per key. Raises BadInputError."""
        parts_of: dict[int, list[str]] = {}
        for name in self.parts:
            with self.opened(name) as (shard, _):
                # A key is of one shard alone, so that only parts of one shard may share keys.
                others = parts_of.setdefault(shard, [])
            seen = {row["key"] for other in others for row in self.part(other, ["key"])}
            others.append(name)
            for row in self.part(name, list({"key", *columns})):
                if row["key"] not in seen:
                    seen.add(row["key"])
                    yield {column: row[column] for column in columns}

    def part(self, name: str, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Yield some columns of every row of one part, by name. Raises BadInputError."""
        with self.opened(name) as (_, file):
            batches = file.iter_batches(ROWS_PER_GROUP, columns=columns)
            for batch in foreign_items(batches, self._damaged(name)):
                yield from batch.to_pylist()

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[tuple[int, Any]]:
        """Open a part: the shard whose rows it holds, and pyarrow's ParquetFile. Raises BadInputError."""
        parquet = require("pyarrow.parquet", extra="corpus", purpose=PURPOSE)
        damaged = self._damaged(name)
        with self.folder.open(name) as stream:
            with foreign(damaged):
                file = parquet.ParquetFile(stream)
            shard = shard_of(file.schema_arrow.metadata)
            if shard is None or not file.schema_arrow.equals(schema()):
                raise damaged("it has not the columns of a part")
            yield shard, file

    def notes(self, name: str) -> PartNotes:
        """Return what a part says besides its rows. Raises BadInputError."""
        with self.opened(name) as (_, file), foreign(self._damaged(name)):
            return notes_of(file.metadata.metadata)

    def picture(self, row: LabelledFrame) -> Picture:
        """Return the frame of a row, uint8 [H, W, 3] BGR, read from its source again.

        The source stays open for the next row; frames of a video in their order are read in one go.
        Raises BadInputError or SourceError where it cannot be read any more, or has another size.
        """
        if self._reader is None or self._reader.source != row.source:
            self.close()
            self._reader = FrameReader(row.source)
        picture = self._reader.frame(row.frame)
        if picture.shape[:2] != (row.height, row.width):
            raise BadInputError(
                f"frame {row.frame} of {row.source!r} is {picture.shape[1]}x{picture.shape[0]} now, and "
                f"was {row.width}x{row.height} when it was labelled; the source was replaced"
            )
        return picture

    def close(self) -> None:
        """Close the source that `picture` read last; may be called twice."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _damaged(self, name: str) -> Refusal:
        return lambda why: BadInputError(
            f"part {self.folder.where(name)!r} is damaged ({why}); remove it and label the corpus again"
        )
