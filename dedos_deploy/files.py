"""Files that appear whole or not at all, leave nothing behind when killed, are known by their hash, and
are opened only where they are files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dedos_deploy.locks import lock, open_folder

_CHUNK = 1 << 20
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Absent on Windows, where these kinds of files are absent, too.
_OPEN_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY")
)
_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{8}\.dedos\.tmp(\.\w+)?", re.DOTALL)
_unfinished: set[Temporary] = set()
_swept: set[str] = set()


class Temporary:
    """A hidden file or folder beside `dest`, until it is published under that name or discarded.

    It is locked while its writer lives. What a killed writer left has a free lock, which is how the
    next one tells it from what is being written, also between containers, whose process numbers
    mean nothing to each other.
    """

    path: Path
    """Where the temporary file or folder is."""

    descriptor: int
    """Open on the file or folder, for writing if it is a file."""

    def __init__(
        self, dest: Path, *, folder: bool = False, keep_suffix: bool = False, private: bool = False
    ) -> None:
        """keep_suffix: let its name end as that of `dest`, for writers that go by it; private: nobody
        else may read it or write to it, whatever the umask.

        Raises OSError.
        """
        self._dest = dest
        self._folder = folder
        self._mode = 0o700 if private else 0o777
        self.path, self.descriptor = self._create(keep_suffix)
        _unfinished.add(self)

    def publish(self, *, overwrite: bool = True) -> None:
        """Give it the name, in one step; a link that has the name is replaced, never followed.

        Raises OSError; FileExistsError without `overwrite` when the name is taken.
        """
        if overwrite:
            os.replace(self.path, self._dest)
        else:
            _rename_to_free_name(self.path, self._dest)
        self._release()

    def discard(self) -> None:
        """Remove it unless it was published; may be called twice."""
        if self in _unfinished:
            _remove(self.path)
            self._release()

    def keep_open(self) -> int:
        """Return a descriptor of the file that stays open when it is published."""
        return os.dup(self.descriptor)

    def _create(self, keep_suffix: bool) -> tuple[Path, int]:
        stem, suffix = (
            (self._dest.stem, self._dest.suffix) if keep_suffix else (self._dest.name, "")
        )
        while True:
            name = f".{stem}.{secrets.token_hex(4)}.dedos.tmp{suffix}"
            path = self._dest.with_name(name)
            descriptor = _open_new(path, self._mode, folder=self._folder)
            # Somebody who swept before it was locked may have removed it.
            if descriptor is None:
                continue
            if lock(descriptor) is not False and _is_at(descriptor, path):
                return path, descriptor
            os.close(descriptor)

    def _release(self) -> None:
        _unfinished.discard(self)
        os.close(self.descriptor)


def remove_aside(path: Path) -> None:
    """Remove what stands at `path`, a link itself and not what it leads to, so that nobody meets a
    folder that is half removed.

    Raises OSError: FileNotFoundError when another process was quicker.
    """
    aside = Temporary(path, folder=True, private=True)
    try:
        os.rename(path, aside.path / path.name)
    finally:
        aside.discard()


def discard_unfinished() -> None:
    """Remove every temporary file and folder of this process, for an end that unwinds nothing."""
    for temporary in list(_unfinished):
        with contextlib.suppress(OSError):
            _remove(temporary.path)


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders that killed writers left in `folder`.

    Only what has such a name, belongs to this user and is locked by nobody.
    """
    try:
        names = [entry.name for entry in os.scandir(folder) if _TEMPORARY.fullmatch(entry.name)]
    except OSError:
        return  # who writes there says what is wrong
    for name in names:
        _remove_if_dead(folder / name)


def write_atomically(
    path: Path, data: bytes, *, overwrite: bool = True, sync: bool = False
) -> None:
    """Write `data` beside `path` and rename it there, so that readers see all of it or nothing.

    sync: wait for the disk, which may say only then that it is full. What a killed process left in
    that folder is removed before its first file is written.

    Raises OSError, and leaves no temporary file behind; FileExistsError without `overwrite` when
    there is such a file.
    """
    if (folder := str(path.parent)) not in _swept:
        _swept.add(folder)
        sweep(path.parent)
    # Not tempfile.mkstemp: its files can be read by their owner alone, whatever the umask.
    temporary = Temporary(path)
    try:
        with open(temporary.descriptor, "wb", closefd=False) as stream:
            stream.write(data)
        if sync:
            os.fsync(temporary.descriptor)
        temporary.publish(overwrite=overwrite)
    finally:
        temporary.discard()


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a file to write in place of `path`, which it becomes when the block ends well.

    For libraries that write to a path. sync: wait for the disk, which may say only then that it is full.
    Raises OSError, and leaves no temporary file behind.
    """
    sweep(path.parent)
    temporary = Temporary(path)
    try:
        yield temporary.path
        if sync:
            os.fsync(temporary.descriptor)
        temporary.publish()
    finally:
        temporary.discard()


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError unless `path`, links followed, is a regular file that may be read; for what a
    library opens itself, and would call damaged.

    Reading a named pipe or a device waits forever or never ends, and opening one may act on it.
    """
    open_regular(path).close()


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Return a regular file opened for reading; never waits for the other end of a named pipe.

    Raises OSError, whose `strerror` says in words what else `path` is.
    """
    _refuse_irregular(os.stat(path), path)
    stream = open(path, "rb", opener=lambda name, _: os.open(name, _OPEN_FLAGS))
    try:
        # Once more: the name may have come to mean something else.
        _refuse_irregular(os.fstat(stream.fileno()), path)
    except BaseException:
        stream.close()
        raise
    return stream


def read_regular(path: str | os.PathLike[str], *, limit: int | None = None) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises OSError."""
    with open_regular(path) as stream:
        content = stream.read() if limit is None else stream.read(limit + 1)
    if limit is not None and len(content) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit} bytes", os.fspath(path))
    return content


def _refuse_irregular(status: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", os.fspath(path))


def replace_folder(staging: Path, dest: Path, *, beside: Path | None = None) -> None:
    """Give a finished folder the name `dest`, in place of a folder that has it, if any.

    beside: where that one steps aside, a path on the same file system, None for `dest`. Raises OSError;
    what stood there has its name again then.
    """
    if not dest.exists():
        os.rename(staging, dest)
        return
    # No name of a temporary: nobody sweeps away the only bundle there is after a kill in between.
    aside = (beside or dest).with_name(f".{dest.name}.{secrets.token_hex(4)}.replaced")
    try:
        # A folder with contents cannot be renamed over: it steps aside, and back on any failure.
        os.rename(dest, aside)
        os.rename(staging, dest)
    finally:
        if not dest.exists():
            os.rename(aside, dest)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def replacing_folder(dest: Path, *, beside: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder, which becomes `dest`, in place of a folder that has the name, when the block
    ends well.

    beside: the path beside which it is made, on the same file system, None for `dest`. Raises OSError, and
    leaves nothing behind then.
    """
    place = beside or dest
    sweep(place.parent)
    temporary = Temporary(place, folder=True)
    try:
        staging = temporary.path / dest.name
        staging.mkdir()
        yield staging
        replace_folder(staging, dest, beside=place)
    finally:
        temporary.discard()


def sync_tree(folder: Path) -> None:
    """Wait until the disk has a folder and all below it. Raises OSError."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder. Raises OSError."""
    if path.is_dir() and os.name == "nt":
        return  # Windows does not open folders
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(stream: BinaryIO) -> str:
    """Return the SHA-256 of all bytes from the position of `stream` to its end."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with open_regular(path) as stream:
        return sha256_of(stream)


def _open_new(path: Path, mode: int, *, folder: bool) -> int | None:
    """Return a descriptor of a new file or folder; None for a folder that is gone already."""
    if not folder:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        return os.open(path, flags, mode & 0o666)
    path.mkdir(mode)
    try:
        return open_folder(path)
    except FileNotFoundError:
        return None


def _is_at(descriptor: int, path: Path) -> bool:
    if sys.platform == "win32":
        return True
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def _remove_if_dead(path: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return  # gone, a link, or another user's
    try:
        ours = os.fstat(descriptor).st_uid == os.geteuid()
        if ours and lock(descriptor) is True and _is_at(descriptor, path):
            with contextlib.suppress(OSError):
                _remove(path)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    if is_folder:
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _rename_to_free_name(path: Path, dest: Path) -> None:
    if sys.platform == "win32":
        os.rename(path, dest)  # refuses a name that is taken
        return
    try:
        # Unlike a rename this fails when the name is taken, if only by a link that leads nowhere.
        os.link(path, dest, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        # FAT and some network file systems have no hard links.
        if os.path.lexists(dest):
            raise FileExistsError(17, "File exists", str(dest)) from None
        os.rename(path, dest)
        return
    path.unlink()
