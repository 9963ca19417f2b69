"""All data of a run read once before its first step: what is faulty, what teaches, what it is."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dedos_deploy.errors import BadInputError
from dedos_deploy.files import read_regular
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.threads import usable_cores
from dedos_deploy.training.distributed import Processes
from dedos_deploy.training.folders import LabelFolder, read_pair, union_words
from dedos_deploy.training.targets import IGNORE

_MOST_THREADS = 16
_AT_ONCE = 256
"""Items that wait for the threads at once: what they hold stays small, however many there are."""


@dataclass(frozen=True)
class DataMark:
    """What tells whether a run goes on with the data it began with."""

    files: str
    """Digest of words, names, sizes and times of change: quick to find, and another after a copy."""
    content: str
    """Digest of words, names, and what the files hold."""


@dataclass(frozen=True)
class DataCheck:
    """The check of a run's data before its first step."""

    folders: Sequence[LabelFolder]
    before: DataMark | None = None
    """Of the run to go on with, None for a new one."""
    allow_change: bool = False
    """Go on with other data than before."""

    def mark(self, progress: Progress) -> DataMark:
        """Read what was not read before; raises BadInputError for faults and for other data."""
        files = file_digest(self.folders)
        if self.before is not None and self.before.files == files:
            return self.before
        with progress.part(1, 1, "reading all data once"):
            content = survey(self.folders, progress=progress)
            before = content if self.before is None else self.before.content
            if before != content and not self.allow_change:
                raise BadInputError(
                    "the data has changed since the run to resume saw it: words, names or contents "
                    "of files; put it back, allow it with --allow-changed-data, or start a new run "
                    "in another --output"
                )
        return DataMark(files, content)


def checked_by_first(check: DataCheck, processes: Processes, progress: Progress) -> DataMark | None:
    """Return what the data is in the first process, None in the others, which wait for it.

    Raises BadInputError in all of them, for the others would wait for one that has ended.
    """
    mark: DataMark | None = None
    fault: BadInputError | None = None
    if processes.rank == 0:
        try:
            mark = check.mark(progress)
        except BadInputError as error:
            fault = error
    if not processes.sum([float(fault is not None)])[0]:
        return mark
    raise fault or BadInputError("the first process found a fault in the data and says which")


def file_digest(folders: Sequence[LabelFolder]) -> str:
    """Return the digest of `DataMark.files`, without reading a file."""
    digest = _begun(folders)
    for path in _paths(folders):
        digest.update(f"{path.name} {_stamp(path)}\n".encode())
    return digest.hexdigest()


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError:
        return "unreadable"  # No mark has it: the survey that follows names the file.
    return f"{found.st_size} {found.st_mtime_ns}"


def content_digest(folders: Sequence[LabelFolder]) -> str:
    """Return the digest of `DataMark.content`, of files that may be faulty.

    Raises BadInputError for a file that cannot be read.
    """
    digest = _begun(folders)
    for folder in folders:
        for item in folder.items:
            digest.update(_checksums(item))
    return digest.hexdigest()


def survey(folders: Sequence[LabelFolder], *, progress: Progress = QUIET) -> str:
    """Read every picture and label of `folders`; return the digest of `DataMark.content`.

    It warns of label files of which no pixel teaches. Raises BadInputError naming the first file
    that training could not use, and a folder of which no pixel teaches.
    """
    digest = _begun(folders)
    slots = {word: slot for slot, word in enumerate(union_words(folders))}
    total = sum(len(folder.items) for folder in folders)
    done = 0
    with ThreadPoolExecutor(min(usable_cores(), _MOST_THREADS)) as pool:
        for folder in folders:
            silent = 0
            for checksums, teaches in _read(folder, slots, pool):
                digest.update(checksums)
                silent += not teaches
                done += 1
                progress.count(done, total)
            _tell_silent(folder, silent, progress)
    return digest.hexdigest()


def _read(
    folder: LabelFolder, slots: dict[str, int], pool: ThreadPoolExecutor
) -> Iterator[tuple[bytes, bool]]:
    """Yield names and checksums, and whether a pixel teaches, of every item in order."""
    table = folder.lookup(slots) != IGNORE

    def read(item: int) -> tuple[bytes, bool]:
        teaches = bool(table[read_pair(folder, item)[1]].any())
        return _checksums(folder.items[item]), teaches

    for first in range(0, len(folder.items), _AT_ONCE):
        yield from pool.map(read, range(first, min(first + _AT_ONCE, len(folder.items))))


def _checksums(item: tuple[Path, Path]) -> bytes:
    return "".join(f"{path.name} {_checksum(path)}\n" for path in item).encode()


def _checksum(path: Path) -> int:
    try:
        return zlib.crc32(read_regular(path))
    except OSError as error:
        raise BadInputError(
            f"{str(path)!r} cannot be read ({error.strerror}); put it back, or remove picture and labels"
        ) from error


def _tell_silent(folder: LabelFolder, silent: int, progress: Progress) -> None:
    where = str(folder.items[0][1].parent)
    if silent == len(folder.items):
        raise BadInputError(
            f"none of the {silent} label files in {where!r} has a pixel to learn from: all are "
            "unlabelled (255) or of background words; label some, or leave the data set out"
        )
    if silent:
        progress.warn(
            f"{silent} of {len(folder.items)} label files in {where!r} have no pixel to learn from: "
            "all of theirs are unlabelled (255) or of background words"
        )


def _begun(folders: Sequence[LabelFolder]) -> hashlib.blake2b:
    named = [(folder.name, folder.words, len(folder.items)) for folder in folders]
    return hashlib.blake2b(repr(named).encode(), digest_size=16)


def _paths(folders: Sequence[LabelFolder]) -> Iterator[Path]:
    return (path for folder in folders for item in folder.items for path in item)
