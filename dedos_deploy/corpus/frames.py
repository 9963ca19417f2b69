"""Frames of a source by their numbers: of a picture, video, recording, Parquet file or tar.

Videos, recordings and scenes are read by the sources that runs have; what is wrong with one frame takes
its place and stops no other.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import tarfile
import tempfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from dedos_deploy.borders import foreign, foreign_items
from dedos_deploy.closing import Closing
from dedos_deploy.corpus.folders import file_system, reaching, scheme_of
from dedos_deploy.errors import BadInputError, listed, require
from dedos_deploy.files import open_regular, read_regular
from dedos_deploy.pictures import IMAGE_SUFFIXES, coloured
from dedos_deploy.runtime.opencv import quiet_opencv
from dedos_deploy.runtime.sources.bags import is_bag
from dedos_deploy.runtime.sources.opening import open_source
from dedos_deploy.runtime.uri import settings_of

if TYPE_CHECKING:
    from dedos_deploy.pictures import Picture

Kind = Literal["picture", "rows", "samples", "recording"]
"""A picture file, Parquet's rows, a WebDataset's samples, or what runs read: videos, bags, scenes."""

PARQUET_SUFFIXES = (".parquet",)
TAR_SUFFIXES = (".tar",)
SCENE = "scene:"
_ROWS_AT_ONCE = 16
_COLUMN_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "bytes")
"""Of several columns that may hold pictures, the first of these is taken."""


@dataclass(frozen=True, eq=False)
class InputFrame:
    """One frame of a source, or what is wrong with it."""

    number: int
    """From 0, of its source."""

    time_s: float | None
    """Position in a recording in seconds, None for what has no times."""

    picture: Picture | None
    """uint8 [H, W, 3] BGR, None for a frame that cannot be read."""

    error: str = ""
    """What is wrong with it, in a sentence."""


def kind_of(source: str) -> Kind:
    """Return how a source is read, by its name alone.

    >>> kind_of("a/b.JPG"), kind_of("s3://b/c.tar"), kind_of("x.parquet?column=image"), kind_of("d.mp4")
    ('picture', 'samples', 'rows', 'recording')
    """
    suffix = posixpath.splitext(source.partition("?")[0].lower())[1]
    if source.startswith(SCENE) or os.path.isdir(source):
        return "recording"
    if suffix in IMAGE_SUFFIXES:
        return "picture"
    if suffix in PARQUET_SUFFIXES:
        return "rows"
    return "samples" if suffix in TAR_SUFFIXES else "recording"


class FrameReader(Closing):
    """Reads one source, forwards from where it is, and from the beginning for what lies behind."""

    end: int | None
    """How many frames the source has, once its end was met."""

    warnings: tuple[str, ...]
    """What was odd about it although reading went on, once its end was met."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.end, self.warnings = None, ()
        self._items: Generator[InputFrame, None, None] | None = None
        self._held: InputFrame | None = None
        self._next = 0
        """Number from which on it has given nothing yet."""

    def frames(self, start: int, stop: int | None) -> Iterator[InputFrame]:
        """Yield the frames numbered from `start` to before `stop`, None for to the end, in order.

        A source may end before. Raises SourceError or BadInputError where it cannot be read at all.
        """
        if self._items is None or start < self._next:
            self.close()
            self._items = _READERS[kind_of(self.source)](self, start)
        while (item := self._held or next(self._items, None)) is not None:
            self._held = item
            if stop is not None and item.number >= stop:
                break
            self._held = None
            self._next = item.number + 1
            if item.number >= start:
                yield item

    def frame(self, number: int) -> Picture:
        """Return one frame, uint8 [H, W, 3] BGR. Raises BadInputError or SourceError."""
        for item in self.frames(number, number + 1):
            if item.picture is None:
                raise BadInputError(item.error)
            return item.picture
        raise BadInputError(f"{self.source!r} has no frame {number} any more; was it replaced?")

    def close(self) -> None:
        items, self._items, self._held, self._next = self._items, None, None, 0
        self.end, self.warnings = None, ()
        if items is not None:
            items.close()


def content_of(source: str) -> bytes:
    """Return the bytes of a file or address. Raises BadInputError."""
    if scheme_of(source) is None:
        try:
            return read_regular(os.path.expanduser(source))
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise BadInputError(f"{source!r} cannot be read ({why})") from error
    with reaching(source):
        files, path = file_system(source)
        content: bytes = files.cat_file(path)
    return content


@contextlib.contextmanager
def opened(source: str) -> Iterator[BinaryIO]:
    """Open a file or address for reading at any position. Raises BadInputError."""
    if scheme_of(source) is None:
        try:
            file: BinaryIO = open_regular(os.path.expanduser(source))
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise BadInputError(f"{source!r} cannot be read ({why})") from error
    else:
        with reaching(source):
            files, path = file_system(source)
            file = files.open(path, "rb")
    with file:
        yield file


@contextlib.contextmanager
def on_disk(source: str) -> Iterator[str]:
    """Yield a path to a file, which for an address is a copy that is removed afterwards."""
    if source.startswith(SCENE) or scheme_of(source) is None:
        # A file that is called 0 is no camera.
        yield source if source.startswith(SCENE) else os.path.abspath(os.path.expanduser(source))
        return
    address, _, settings = source.partition("?")
    with tempfile.TemporaryDirectory(prefix="dedos-label-") as folder:
        copy = os.path.join(folder, posixpath.basename(address))
        with reaching(address):
            files, path = file_system(address)
            files.get_file(path, copy)
        yield f"{copy}?{settings}" if settings else copy


def _decoded(content: object, number: int, name: str) -> InputFrame:
    """Decode what is said to be the bytes of a picture."""
    if not isinstance(content, bytes):
        return InputFrame(number, None, None, f"{name} holds no bytes of a picture")
    try:
        with quiet_opencv():
            picture = coloured(content, name=name)
    except BadInputError as error:
        return InputFrame(number, None, None, str(error))
    if picture is None:
        return InputFrame(number, None, None, f"{name} is damaged, or of an unknown format")
    return InputFrame(number, None, picture)


def _picture(reader: FrameReader, start: int) -> Generator[InputFrame, None, None]:
    source = reader.source
    try:
        content = content_of(source)
    except BadInputError as error:
        yield InputFrame(0, None, None, str(error))
        return
    yield _decoded(content, 0, f"picture {source!r}")
    reader.end = 1


def _recording(reader: FrameReader, start: int) -> Generator[InputFrame, None, None]:
    source = reader.source
    # Read from the start: seeking lands on other frames with other builds of FFmpeg.
    with on_disk(source) as path, open_source(path) as frames:
        expected = 0
        for frame in frames:
            yield from _no_pictures(source, max(start, expected), frame.frame_id)
            expected = frame.frame_id + 1
            if frame.frame_id >= start:
                yield InputFrame(frame.frame_id, frame.media_s, frame.frame_bgr)
        if is_bag(path):
            yield from _no_pictures(source, max(start, expected), frames.frames or 0)
            expected = max(expected, frames.frames or 0)
        reader.end, reader.warnings = expected, frames.warnings


def _no_pictures(source: str, start: int, stop: int) -> Iterator[InputFrame]:
    """Yield what a recording leaves out, which numbers its messages."""
    for number in range(start, stop):
        yield InputFrame(number, None, None, f"message {number} of {source!r} is no picture")


def column_of(names: Callable[[], Any], source: str) -> str:
    """Return the column of a Parquet file that holds pictures. names: returns its Arrow schema.

    Raises BadInputError where there is none, or several and none is named in the address.
    """
    pa = require("pyarrow", extra="corpus", purpose="reading Parquet files")
    takes = "a Parquet file takes column"
    query = source.partition("?")[2]
    asked = settings_of(query, ("column",), what=repr(source), takes=takes, refusal=BadInputError)
    found = [field.name for field in names() if _may_be_pictures(pa, field.type)]
    if "column" in asked:
        if asked["column"] in found:
            return asked["column"]
        raise BadInputError(
            f"{source!r} has no column {asked['column']!r} of pictures' bytes; it has "
            f"{listed(found) or 'none at all'}"
        )
    known = [name for name in _COLUMN_NAMES if name in found]
    if len(found) == 1 or known:
        return known[0] if known else found[0]
    raise BadInputError(
        f"{source!r} has {'no column' if not found else 'several columns'} of pictures' bytes"
        + (f" ({listed(found)}); name one, as in file.parquet?column={found[0]}" if found else "")
    )


def _may_be_pictures(pa: Any, kind: Any) -> bool:
    if pa.types.is_struct(kind):  # as Hugging Face's datasets keep them: bytes and path
        index = kind.get_field_index("bytes")
        return index >= 0 and _may_be_pictures(pa, kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _rows(reader: FrameReader, start: int) -> Generator[InputFrame, None, None]:
    source = reader.source
    parquet = require("pyarrow.parquet", extra="corpus", purpose="reading Parquet files")

    def damaged(why: str) -> BadInputError:
        return BadInputError(f"Parquet file {source!r} cannot be read ({why}); replace it")

    with opened(source.partition("?")[0]) as stream:
        with foreign(damaged):
            file = parquet.ParquetFile(stream)
        column = column_of(lambda: file.schema_arrow, source)
        group, first = 0, 0
        while (
            group < file.num_row_groups and first + file.metadata.row_group(group).num_rows <= start
        ):
            first += file.metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, file.num_row_groups))
        batches = file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=[column])
        for batch in foreign_items(batches if groups else (), damaged):
            for number, cell in enumerate(batch.column(0), first):
                if number >= start:
                    yield _decoded(_bytes_in(cell.as_py()), number, f"row {number} of {source!r}")
            first += len(batch)
        reader.end = first


def _bytes_in(cell: object) -> object:
    return cell.get("bytes") if isinstance(cell, dict) else cell


def _samples(reader: FrameReader, start: int) -> Generator[InputFrame, None, None]:
    source = reader.source

    def damaged(why: str) -> BadInputError:
        return BadInputError(f"tar {source!r} cannot be read ({why}); replace it")

    with opened(source) as stream:
        # One pass, forwards, since an address gives its bytes in their order.
        with foreign(damaged):
            tar = tarfile.open(fileobj=stream, mode="r|")
        with tar:
            pictures, number = (member for member in tar if is_picture_member(member)), -1
            for number, member in enumerate(foreign_items(pictures, damaged)):
                if number >= start:
                    with foreign(damaged):
                        file = tar.extractfile(member)
                        content = file.read() if file is not None else None
                    yield _decoded(content, number, f"{member.name!r} in {source!r}")
            reader.end = number + 1


def is_picture_member(member: tarfile.TarInfo) -> bool:
    """Return whether a member of a WebDataset's tar is the picture of a sample."""
    name = posixpath.basename(member.name)
    # What is beside a picture may be one, too: `0001.seg.png` are labels of `0001.jpg`.
    extension = "." + name.partition(".")[2].lower()
    return member.isfile() and not name.startswith(".") and extension in IMAGE_SUFFIXES


_READERS: dict[Kind, Callable[[FrameReader, int], Generator[InputFrame, None, None]]] = {
    "picture": _picture,
    "rows": _rows,
    "samples": _samples,
    "recording": _recording,
}
