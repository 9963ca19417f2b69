"""A `.dedos` file unpacked safely: checked names and sizes, once per content, atomically."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import shutil
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dedos_deploy.bundle._fields import shown
from dedos_deploy.bundle._names import MANIFEST, clash, is_safe_name
from dedos_deploy.bundle._verify import verify_folder
from dedos_deploy.errors import BadBundleError, BadInputError, UnsupportedVersionError
from dedos_deploy.files import sha256_of

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "DEDOS_CACHE_DIR"
MAX_UNPACKED = 16 << 30
"""Bytes that a bundle may unpack to; the largest preset with all its engines stays under 4 GiB."""

_MAX_FILES = 4096
# A repeated byte deflates 1000:1, weights hardly at all: what is large and shrinks this well is
# not a model. Small files are let through, for a graph of random test weights may be all zeros.
_MAX_RATIO = 100
_SMALL_TOTAL = 64 << 20
_PUBLISH_TRIES = 3
_STALE_SECONDS = 24 * 3600
_CHUNK = 1 << 20
# What zipfile lets out, depending on where the damage is.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError,
    OverflowError, IndexError,
)  # fmt: skip


def unpack(archive_path: Path, *, label: str, hashes: bool) -> tuple[Path, bool]:
    """Return a folder with the verified contents of a `.dedos` file, and whether it is temporary.

    The folder lies in the user's cache under the SHA-256 of the file, so that it is unpacked once;
    a copy there that has come to harm is unpacked again. Where the cache cannot be written, a
    temporary folder is made instead, which the caller removes.

    label: what the bundle is called in messages; hashes: whether the large files of a copy that
    is already there are hashed again; what is unpacked now always is.

    Raises BadBundleError when the file is damaged or unsafe, and BadInputError when there is no
    place to unpack to.
    """
    with _opened(archive_path, label) as stream:
        cached = cache_root() / "bundles" / _digest(stream, label)
        if _is_good(cached, label=label, hashes=hashes):
            return cached, False
        with _archive(stream, label) as archive:
            source = _Source(archive, _checked_members(archive, label), label)
            try:
                return _unpack_to_cache(source, cached), False
            except _WriteError as error:
                _warn_of_cache(label, error.cause)
                return _unpack_temporarily(source), True


def cache_root() -> Path:
    """Return the folder that caches live in: $DEDOS_CACHE_DIR, else the platform's own."""
    configured = os.environ.get(CACHE_VARIABLE)
    if configured:
        return Path(configured)
    import platformdirs

    return Path(platformdirs.user_cache_dir("dedos-deploy", appauthor=False))


def _opened(path: Path, label: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise BadBundleError(f"{label}: cannot be read ({error.strerror})") from error


def _digest(stream: BinaryIO, label: str) -> str:
    try:
        digest = sha256_of(stream)
        stream.seek(0)
    except OSError as error:
        raise BadBundleError(f"{label}: cannot be read ({error.strerror})") from error
    return digest


def _archive(stream: BinaryIO, label: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except _ZIP_ERRORS as error:
        raise BadBundleError(
            f"{label}: not a complete .dedos file ({shown(str(error))}); copy it again or export "
            f"it again"
        ) from error


def _is_good(cached: Path, *, label: str, hashes: bool) -> bool:
    if not cached.is_dir():
        return False
    try:
        verify_folder(cached, label=label, hashes=hashes)
    except UnsupportedVersionError:
        raise
    except BadBundleError as error:
        logger.warning("the unpacked copy in %s is damaged, unpacking again: %s", cached, error)
        return False
    return True


def _checked_members(archive: zipfile.ZipFile, label: str) -> list[zipfile.ZipInfo]:
    # Not ZipInfo.is_dir: for an empty name it is an IndexError in some versions of Python.
    members = [info for info in archive.infolist() if not info.filename.endswith("/")]
    if len(members) > _MAX_FILES:
        raise BadBundleError(f"{label}: holds {len(members)} files, more than {_MAX_FILES}")
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
    _check_total(members, label)
    return members


def _check_total(members: list[zipfile.ZipInfo], label: str) -> None:
    total = sum(info.file_size for info in members)
    packed = sum(info.compress_size for info in members)
    if total > MAX_UNPACKED or total > max(_SMALL_TOTAL, _MAX_RATIO * packed):
        largest = max(members, key=lambda info: info.file_size)
        raise BadBundleError(
            f"{label}: would unpack from {packed} to {total} bytes, most of it "
            f"{largest.filename!r}, which no bundle does"
        )


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
    label: str


def _unpack_to_cache(source: _Source, cached: Path) -> Path:
    staging = cached.parent / f".{cached.name[:16]}.{secrets.token_hex(4)}.tmp"
    try:
        _sweep(cached.parent)
        staging.mkdir(parents=True)
    except OSError as error:
        raise _WriteError(error) from error
    try:
        _write_members(source, staging)
        verify_folder(staging, label=source.label, hashes=True)
        return _publish(staging, cached, source.label)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unpack_temporarily(source: _Source) -> Path:
    staging: Path | None = None
    try:
        staging = Path(tempfile.mkdtemp(prefix="dedos-bundle-"))
        _write_members(source, staging)
        verify_folder(staging, label=source.label, hashes=True)
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
    return staging


def _warn_of_cache(label: str, reason: OSError) -> None:
    logger.warning(
        "the cache folder %s cannot be written (%s): %s is unpacked to a temporary folder, anew "
        "each time; set %s to a folder that can be written",
        cache_root(), reason.strerror, label, CACHE_VARIABLE,
    )  # fmt: skip


def _write_members(source: _Source, folder: Path) -> None:
    for info in source.members:
        chunks = _chunks(source.archive, info, source.label)
        try:
            target = folder / info.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as stream:
                for chunk in chunks:
                    stream.write(chunk)
        except OSError as error:
            raise _WriteError(error) from error


def _chunks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str) -> Iterator[bytes]:
    """Yield the bytes of a member; zipfile stops at the length that its directory announces."""
    try:
        with archive.open(info) as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except _ZIP_ERRORS as error:
        raise BadBundleError(
            f"{label}: file {info.filename!r} is damaged ({shown(str(error))}); copy the bundle "
            f"again or export it again"
        ) from error


def _publish(staging: Path, cached: Path, label: str) -> Path:
    """Rename `staging` to `cached`, whole or not at all; another process may have done it first."""
    for _ in range(_PUBLISH_TRIES):
        try:
            os.rename(staging, cached)
            return cached
        except OSError as error:
            if not cached.is_dir():
                raise _WriteError(error) from error
        if _is_good(cached, label=label, hashes=True):
            return cached
        _discard(cached)
    raise _WriteError(OSError(errno.EBUSY, "another process keeps writing there"))


def _discard(cached: Path) -> None:
    aside = cached.with_name(f".{cached.name[:16]}.{secrets.token_hex(4)}.tmp")
    try:
        # Renamed first: nobody may meet a folder that is half removed.
        os.rename(cached, aside)
    except FileNotFoundError:
        return  # another process was quicker
    except OSError as error:
        raise _WriteError(error) from error
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what processes killed while unpacking left behind a day ago or more."""
    for path in folder.glob(".*.tmp"):
        if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
