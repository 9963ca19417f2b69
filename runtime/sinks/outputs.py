"""Outputs: files that are what they say when they are closed, and errors that name them."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.files import Temporary, sweep, write_atomically
from dedos_deploy.places import Read, Written, check_apart

FOLDER_HOLDS = ("*.jpg", "*.png", "classes.*", "ids-*/*")
"""Patterns of what is written into folders."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a SinkError that names `path` and the reason."""
    try:
        yield
    except FileExistsError as error:
        raise SinkError(_exists(path)) from error
    except OSError as error:
        raise SinkError(
            f"output {str(path)!r} cannot be written ({error.strerror or error}); check the "
            "folder, its permissions and the free space"
        ) from error


def write_whole(path: Path, content: bytes, *, overwrite: bool = True, sync: bool = False) -> None:
    """Write a file so that nobody sees it half written. Raises SinkError."""
    with writing(path):
        write_atomically(path, content, overwrite=overwrite, sync=sync)


def reserve_file(
    path: Path, *, overwrite: bool, protected: Sequence[Path] = (), keep_suffix: bool = False
) -> Temporary:
    """Return a temporary file beside `path`, which proves that it can be written.

    What killed runs left in that folder is removed. protected: files and folders that are being
    read. Raises SinkError when it cannot be written, is part of what is protected, or when `path`
    exists and `overwrite` is False.
    """
    try:
        found: os.stat_result | None = os.lstat(path)
    except OSError:
        found = None  # not there, or said below
    if found is not None:
        if path.is_dir():
            raise SinkError(f"output {str(path)!r} is a folder; name a file in it")
        _refuse_protected(path, protected)
        if not overwrite:
            raise SinkError(_exists(path))
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISLNK(found.st_mode):
            raise SinkError(f"output {str(path)!r} is a pipe or device; name a file")
    sweep(path.parent)
    with writing(path):
        return Temporary(path, keep_suffix=keep_suffix)


def _exists(path: Path) -> str:
    return (
        f"output {str(path)!r} exists; allow it to be replaced with --overwrite "
        "(overwrite=True), or choose another name"
    )


def _refuse_protected(path: Path, protected: Sequence[Path], holds: tuple[str, ...] = ()) -> None:
    """Refuse what would replace a file that is read, or one in a folder that is read."""
    output = Written(f"output {str(path)!r}", path, holds)
    sources = [Read(f"source {str(source)!r}", (source,)) for source in protected]
    try:
        check_apart([output], sources)
    except BadInputError as error:
        raise SinkError(str(error)) from None


class GrowingFile(io.BufferedWriter):
    """A file that is written from its start to its end and can be read while it grows.

    `close` proves it: all that was written is on the disk, and the file still has its name.
    """

    def __init__(self, path: Path, *, overwrite: bool, protected: Sequence[Path] = ()) -> None:
        """Prove that it can be written; it has its name from `appear` on. Raises SinkError as
        reserve_file does."""
        self._path = path
        self._overwrite = overwrite
        self._reserved: Temporary | None = reserve_file(
            path, overwrite=overwrite, protected=protected
        )
        super().__init__(io.FileIO(self._reserved.keep_open(), "w"))

    @property
    def has_appeared(self) -> bool:
        return self._reserved is None

    def appear(self) -> None:
        """Take the name. Raises SinkError when it was taken meanwhile."""
        if self._reserved is not None:
            with writing(self._path):
                self._reserved.publish(overwrite=self._overwrite)
            self._reserved = None

    def close(self) -> None:
        """Complete the file; one that never appeared is removed. May be called twice.

        Raises SinkError when not all of it is there: the disk is full, or somebody took it away.
        """
        if self.closed:
            return
        try:
            if self._reserved is not None:
                self._reserved.discard()
                return
            with writing(self._path):
                self.flush()
                os.fsync(self.fileno())
                self._check()
        finally:
            # Not BufferedWriter's own, which would try once more to write what was refused.
            self.raw.close()

    def _check(self) -> None:
        found = os.fstat(self.fileno())
        if found.st_size < self.tell():
            raise SinkError(
                f"output {str(self._path)!r} holds {found.st_size} of {self.tell()} bytes; somebody "
                "else has written it too, choose a name for each"
            )
        try:
            same = os.path.samestat(os.lstat(self._path), found)
        except FileNotFoundError:
            same = False
        if not same:
            raise SinkError(
                f"output {str(self._path)!r} was moved or removed while it was written; what it held "
                "is where it was moved to"
            )


def open_growing(path: Path, *, overwrite: bool, protected: Sequence[Path] = ()) -> GrowingFile:
    """Return the new file `path`, open for writing bytes; it has its name at once.

    Raises SinkError as reserve_file does.
    """
    file = GrowingFile(path, overwrite=overwrite, protected=protected)
    try:
        file.appear()
    except SinkError:
        file.close()
        raise
    return file


class PictureFolder:
    """A folder that gets a file per frame; none takes the place of another."""

    def __init__(
        self, path: Path, suffix: str, *, overwrite: bool, protected: Sequence[Path] = ()
    ) -> None:
        """Create the folder, whose parent must exist, and prove that files fit in.

        suffix: of the files. Raises SinkError when it cannot be written, is read as a source, or
        holds files and `overwrite` is False.
        """
        self.path = path
        self.count = 0
        self._suffix = suffix
        self._round = 1
        self._is_unused = not path.exists()
        _reserve_folder(path, overwrite=overwrite, protected=protected)
        # What was there before may be replaced, what this run has written may not.
        self._before = self._names()

    def write(self, stem: str, content: bytes) -> None:
        """Write `stem`, or `stem-2` when this run has that one already, as after a source was opened
        again. Raises SinkError.

        stem: of a frame's name, which may come from a recording."""
        self._is_unused = False
        if not stem or not {"/", "\\", "\0"}.isdisjoint(stem):
            raise SinkError(
                f"a frame is called {stem[:80]!r}, which cannot be the name of a file; give frames "
                "names without separators"
            )
        while True:
            name = (
                f"{stem}{self._suffix}"
                if self._round == 1
                else f"{stem}-{self._round}{self._suffix}"
            )
            path = self.path / name
            if name in self._before or not os.path.lexists(path):
                break
            self._round += 1
        write_whole(path, content, overwrite=name in self._before)
        self._before.discard(name)
        self.count += 1

    def left(self) -> int:
        """Return how many of the files that were written are there. Raises SinkError."""
        return min(self.count, len(self._names() - self._before)) if self.count else 0

    def close(self) -> None:
        """Remove the folder if it was made for pictures that never came."""
        if self._is_unused:
            # Somebody else may have put something there, or taken it away.
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def _names(self) -> set[str]:
        with writing(self.path):
            names = os.listdir(self.path)
        return {name for name in names if name.endswith(self._suffix) and name[0] != "."}


def _reserve_folder(path: Path, *, overwrite: bool, protected: Sequence[Path]) -> None:
    if path.exists() and not path.is_dir():
        raise SinkError(f"output folder {str(path)!r} is a file; choose another name")
    _refuse_protected(path, protected, FOLDER_HOLDS)
    with writing(path):
        path.mkdir(exist_ok=True)
        if any(path.iterdir()) and not overwrite:
            raise SinkError(
                f"output folder {str(path)!r} is not empty; allow files in it to be replaced with "
                "--overwrite (overwrite=True), or choose another name"
            )
        sweep(path)
        Temporary(path / "probe").discard()
