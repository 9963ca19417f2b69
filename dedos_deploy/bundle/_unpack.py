"""A `.dedos` file unpacked safely: checked names and sizes, once per content, atomically."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import os
import shutil
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dedos_deploy.bundle._names import MANIFEST, MAX_FILES, clash, is_safe_name, is_sha256
from dedos_deploy.bundle._verify import MAX_MANIFEST, manifest_of, verify_folder
from dedos_deploy.bundle.manifest import Manifest
from dedos_deploy.errors import BadBundleError, BadInputError, shown
from dedos_deploy.files import Temporary, open_regular, read_regular, remove_aside, sweep
from dedos_deploy.user_cache import (
    CACHE_VARIABLE,
    cache_root,
    private_folder,
    private_problem,
    write_private,
)

logger = logging.getLogger(__name__)

MAX_UNPACKED = 16 << 30
"""Bytes that a bundle may unpack to; the largest preset with all its engines stays under 4 GiB."""

# A repeated byte deflates 1000:1, weights hardly at all: what is large and shrinks this well is
# not a model. Small files are let through, for a graph of random test weights may be all zeros.
_MAX_RATIO = 100
_SMALL_TOTAL = 64 << 20
# Of the longest bundle it has a tenth of this.
_MAX_DIRECTORY = 8 << 20
_HEADER = 30  # bytes of a member's own header without its name
_PUBLISH_TRIES = 3
_OLD_SECONDS = 7 * 24 * 3600
_CHUNK = 1 << 20
# What zipfile lets out, depending on where the damage is.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    OverflowError,
    IndexError,
)


@dataclass(frozen=True)
class Unpacked:
    """A bundle that can be read as a folder."""

    folder: Path
    """The verified contents."""

    manifest: Manifest
    """Theirs."""

    temporary: bool
    """Whether the caller removes the folder."""


def unpack(archive_path: Path, *, label: str, hashes: bool) -> Unpacked:
    """Return the verified contents of a `.dedos` file.

    The folder lies in the user's cache under the SHA-256 of its manifest, which has the hashes of all
    other files: what is found there is used only if it matches that name and nobody else can have
    written it, and is unpacked again otherwise. The file is opened once and may change while it is
    read: what comes of it matches the manifest that was read first, or is refused. Where the cache
    cannot be used, a temporary folder is made instead.

    label: what the bundle is called in messages; hashes: whether the large files of a copy that
    is already there are hashed again; what is unpacked now always is.

    Raises BadBundleError when the file is damaged or unsafe, and BadInputError when there is no
    place to unpack to.
    """
    with _opened(archive_path, label) as stream, _archive(stream, label) as archive:
        source = _source(archive, os.fstat(stream.fileno()).st_size, label)
        cached = cache_root() / "bundles" / source.key
        if os.path.lexists(cached):
            found = _found(cached, label=label, hashes=hashes)
            if isinstance(found, Manifest):
                return Unpacked(cached, found, temporary=False)
            logger.warning("the unpacked copy in %s %s", cached, found)
        try:
            return Unpacked(cached, _unpack_to_cache(source, cached), temporary=False)
        except _WriteError as error:
            _warn_of_cache(label, error.cause)
            return _unpack_temporarily(source)


class _ShortReads(io.BufferedReader):
    """Refuses to read more at once than the directory of a bundle has: zipfile reads that whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        whole = size is None or size < 0
        content = super().read(_MAX_DIRECTORY + 1 if whole else min(size or 0, _MAX_DIRECTORY + 1))
        if len(content) > _MAX_DIRECTORY:
            raise ValueError("its directory is too long")
        return content


def _opened(path: Path, label: str) -> BinaryIO:
    try:
        return _ShortReads(open_regular(path).detach())
    except OSError as error:
        raise BadBundleError(f"{label}: cannot be read ({error.strerror})") from error


def _archive(stream: BinaryIO, label: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except _ZIP_ERRORS as error:
        raise BadBundleError(
            f"{label}: not a complete .dedos file ({shown(str(error))}); copy it again or export "
            f"it again"
        ) from error


def _source(archive: zipfile.ZipFile, size: int, label: str) -> _Source:
    members = _checked_members(archive, label)
    _check_total(members, size, label)
    _check_overlap(members, archive.start_dir, label)
    (listing,) = (info for info in members if info.filename == MANIFEST)
    if listing.file_size > MAX_MANIFEST:
        raise BadBundleError(f"{label}: {MANIFEST} has {listing.file_size} bytes, more than it may")
    content = b"".join(_chunks(archive, listing, label))
    manifest_of(content, label=label)
    others = [info for info in members if info.filename != MANIFEST]
    return _Source(archive, others, content, label)


def _found(cached: Path, *, label: str, hashes: bool) -> Manifest | str:
    """Return the manifest of a good copy in the cache, or what is the matter with it."""
    # First: what is checked in a folder of somebody else may be changed afterwards.
    problem = private_problem(cached)
    if problem is not None:
        return f"is not used, unpacking again: {problem}"
    try:
        return verify_folder(cached, label=label, hashes=hashes, manifest_sha256=cached.name)
    except BadBundleError as error:
        return f"is damaged, unpacking again: {error}"


def _checked_members(archive: zipfile.ZipFile, label: str) -> list[zipfile.ZipInfo]:
    # Not ZipInfo.is_dir: for an empty name it is an IndexError in some versions of Python.
    members = [info for info in archive.infolist() if not info.filename.endswith("/")]
    if len(members) > MAX_FILES:
        raise BadBundleError(f"{label}: holds {len(members)} files, more than {MAX_FILES}")
    for info in members:
        name = shown(info.orig_filename)
        if info.orig_filename != info.filename or not is_safe_name(info.filename):
            raise BadBundleError(f"{label}: file {name} has a name that a bundle may not use")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise BadBundleError(f"{label}: {name} is not a regular file")
        if info.flag_bits & 0x1:
            raise BadBundleError(f"{label}: file {name} is encrypted, which bundles never are")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadBundleError(f"{label}: file {name} is neither stored nor deflated")
    problem = clash(info.filename for info in members)
    if problem is not None:
        raise BadBundleError(f"{label}: {problem}")
    if MANIFEST not in {info.filename for info in members}:
        raise BadBundleError(f"{label}: file {MANIFEST!r} is missing at the top of the .dedos file")
    return members


def _check_total(members: list[zipfile.ZipInfo], packed: int, label: str) -> None:
    """packed: bytes of the whole file, for the sizes that its directory claims may be lies."""
    total = sum(info.file_size for info in members)
    if total > MAX_UNPACKED or total > max(_SMALL_TOTAL, _MAX_RATIO * packed):
        largest = max(members, key=lambda info: info.file_size)
        raise BadBundleError(
            f"{label}: would unpack from {packed} to {total} bytes, most of it "
            f"{largest.filename!r}, which no bundle does"
        )


def _check_overlap(members: list[zipfile.ZipInfo], end: int, label: str) -> None:
    """Refuse bytes that unpack to several files, with which a small archive holds very much."""
    starts = sorted(members, key=lambda info: info.header_offset)
    limits = [*(info.header_offset for info in starts[1:]), end]
    for info, limit in zip(starts, limits, strict=True):
        # Names are ASCII; an extra field and a data descriptor could only make it longer.
        if info.header_offset + _HEADER + len(info.filename) + info.compress_size > limit:
            raise BadBundleError(f"{label}: file {info.filename!r} overlaps what follows it")


class _WriteError(Exception):
    """The place to unpack to failed, not the archive."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(frozen=True)
class _Source:
    """An open archive whose members were checked."""

    archive: zipfile.ZipFile

    members: list[zipfile.ZipInfo]
    """All but the manifest."""

    manifest: bytes
    """Content of manifest.json."""

    label: str
    """What the bundle is called in messages."""

    @property
    def key(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()


def _unpack_to_cache(source: _Source, cached: Path) -> Manifest:
    try:
        private_folder(cached.parent)
        _sweep(cached.parent)
        staging = Temporary(cached, folder=True, private=True)
    except OSError as error:
        raise _WriteError(error) from error
    try:
        manifest = _write_all(source, staging.path)
        _publish(staging, cached, source.label)
        return manifest
    finally:
        staging.discard()


def _unpack_temporarily(source: _Source) -> Unpacked:
    staging: Path | None = None
    try:
        staging = Path(tempfile.mkdtemp(prefix="dedos-bundle-"))
        return Unpacked(staging, _write_all(source, staging), temporary=True)
    except BaseException as error:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        cause = error.cause if isinstance(error, _WriteError) else error
        if isinstance(cause, OSError):
            raise BadInputError(
                f"{source.label}: cannot be unpacked ({cause.strerror}); free some disk space or "
                f"set {CACHE_VARIABLE} to a folder that can be written"
            ) from cause
        raise


def _warn_of_cache(label: str, reason: OSError) -> None:
    logger.warning(
        "the cache folder %s cannot be written (%s): %s is unpacked to a temporary folder, anew "
        "each time; set %s to a folder that can be written",
        cache_root(),
        reason.strerror,
        label,
        CACHE_VARIABLE,
    )


def _write_all(source: _Source, folder: Path) -> Manifest:
    """Write the contents of an archive and return their manifest, against which they were held."""
    _write(folder, MANIFEST, [source.manifest])
    for info in source.members:
        _write(folder, info.filename, _chunks(source.archive, info, source.label))
    return verify_folder(folder, label=source.label, hashes=True, manifest_sha256=source.key)


def _write(folder: Path, name: str, chunks: Iterable[bytes]) -> None:
    try:
        with open(write_private(folder, name), "wb") as stream:
            stream.writelines(chunks)
    except OSError as error:
        raise _WriteError(error) from error


def _chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str) -> Iterator[bytes]:
    """Yield the bytes of a member, no more than its directory announces."""
    left = info.file_size
    try:
        with archive.open(info) as stream:
            while chunk := stream.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise ValueError("it is longer than announced")
                yield chunk
    except _ZIP_ERRORS as error:
        raise BadBundleError(
            f"{label}: file {info.filename!r} is damaged ({shown(str(error))}); copy the bundle "
            f"again or export it again"
        ) from error


def _publish(staging: Temporary, cached: Path, label: str) -> None:
    """Rename `staging` to `cached`, whole or not at all; another process may have done it first."""
    for _ in range(_PUBLISH_TRIES):
        try:
            staging.publish()
            return
        except OSError as error:
            if not os.path.lexists(cached):
                raise _WriteError(error) from error
        if isinstance(_found(cached, label=label, hashes=True), Manifest):
            return
        try:
            remove_aside(cached)
        except FileNotFoundError:
            continue  # another process was quicker
        except OSError as error:
            raise _WriteError(error) from error
    raise _WriteError(OSError(errno.EBUSY, "another process keeps writing there"))


def _sweep(folder: Path) -> None:
    """Remove what was left behind: by processes killed while unpacking, and by earlier releases.

    Those named copies after the hash of the archive; no such copy can be used any more.
    """
    sweep(folder)
    now = time.time()
    for path in folder.iterdir():
        # Another process may be quicker.
        with contextlib.suppress(FileNotFoundError):
            is_old = now - path.lstat().st_mtime > _OLD_SECONDS
            if is_old and is_sha256(path.name) and _is_of_earlier_release(path):
                logger.info("removing the unpacked copy %s of an earlier release", path)
                remove_aside(path)


def _is_of_earlier_release(path: Path) -> bool:
    try:
        content = read_regular(path / MANIFEST, limit=MAX_MANIFEST)
        manifest_of(content, label="an unpacked copy")
    except (OSError, BadBundleError):
        return False  # not certainly ours
    return hashlib.sha256(content).hexdigest() != path.name
