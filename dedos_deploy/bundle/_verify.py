"""A bundle folder held against its manifest; the first thing that is wrong is named."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dedos_deploy.bundle._names import ENGINES_FOLDER, MANIFEST, MAX_NAME
from dedos_deploy.bundle.manifest import Manifest
from dedos_deploy.errors import BadBundleError, shown
from dedos_deploy.files import read_regular, sha256_of_file

SMALL_FILE = 1 << 20
"""Files up to this many bytes are hashed even when hashing is not asked for."""

MAX_MANIFEST = 8 << 20
MAX_READ = 2 << 30
"""Bytes of the largest file that is read into memory whole; a protobuf message ends there, too."""


def verify_folder(
    folder: Path, *, label: str, hashes: bool, manifest_sha256: str | None = None
) -> Manifest:
    """Return the manifest of a bundle folder after holding every file against it.

    label: what the bundle is called in messages; hashes: whether large files are hashed too;
    manifest_sha256: what the manifest's own bytes must hash to, None for a folder of the user's.

    Raises BadBundleError naming the first file or field that is wrong: a manifest that cannot be
    used, a file missing, not listed, not regular, leading out of the folder, or changed.
    """
    content = _manifest_bytes(folder, label)
    if manifest_sha256 is not None:
        _check_digest(content, MANIFEST, manifest_sha256, label, "its folder's name")
    manifest = manifest_of(content, label=label)
    for name in manifest.files:
        _check_inside(folder, name, label)
    try:
        for name in _files_below(folder, ""):
            if name not in manifest.files and name != MANIFEST:
                raise BadBundleError(
                    f"{label}: file {shown(name)} is not listed in {MANIFEST}; remove it or "
                    f"export the bundle again"
                )
    except OSError as error:
        raise BadBundleError(f"{label}: cannot be listed ({error.strerror})") from error
    for name, expected in manifest.files.items():
        _check_hash(folder / name, name, expected, label=label, always=hashes)
    return manifest


def manifest_of(content: bytes, *, label: str) -> Manifest:
    """Return the manifest in the bytes of a manifest.json, checked on its own.

    Raises BadBundleError naming the field that is wrong.
    """
    if len(content) > MAX_MANIFEST:
        raise BadBundleError(f"{label}: {MANIFEST} has more than {MAX_MANIFEST} bytes")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadBundleError(f"{label}: {MANIFEST} is not UTF-8 text") from error
    return Manifest.from_json(text, where=f"{label}: {MANIFEST}")


def read_file(folder: Path, name: str, expected: str, *, label: str) -> bytes:
    """Return the content of a listed file, read once: these very bytes have the SHA-256 `expected`.

    Raises BadBundleError when the file cannot be read or was changed.
    """
    try:
        content = read_regular(folder / name, limit=MAX_READ)
    except OSError as error:
        raise _unreadable(label, name, error) from error
    _check_digest(content, name, expected, label, MANIFEST)
    return content


def _manifest_bytes(folder: Path, label: str) -> bytes:
    _check_inside(folder, MANIFEST, label)
    try:
        return read_regular(folder / MANIFEST, limit=MAX_MANIFEST)
    except OSError as error:
        raise _unreadable(label, MANIFEST, error) from error


def _check_inside(folder: Path, name: str, label: str) -> None:
    path = folder / name
    try:
        inside = path.resolve(strict=True).is_relative_to(folder.resolve())
        regular = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BadBundleError(
            f"{label}: file {name!r} is missing; copy the bundle again or export it again"
        ) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise _unreadable(label, name, error) from error
    if not inside:
        raise BadBundleError(f"{label}: file {name!r} is a link that leads out of the bundle")
    if not regular:
        raise BadBundleError(f"{label}: {name!r} is not a regular file")


def _files_below(folder: Path, prefix: str) -> Iterator[str]:
    """Yield names of files; what lies in the engine cache is the runtime's own business."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = prefix + entry.name
        # In a folder beyond the longest name nothing can be listed: it is named itself.
        if entry.is_dir(follow_symlinks=False) and len(name) < MAX_NAME:
            if name != ENGINES_FOLDER:
                yield from _files_below(folder / entry.name, f"{name}/")
        else:
            yield name


def _check_hash(path: Path, name: str, expected: str, *, label: str, always: bool) -> None:
    try:
        if not always and path.stat().st_size > SMALL_FILE:
            return
        actual = sha256_of_file(path)
    except OSError as error:
        raise _unreadable(label, name, error) from error
    if actual != expected:
        raise _changed(label, name, actual, expected, MANIFEST)


def _check_digest(content: bytes, name: str, expected: str, label: str, source: str) -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise _changed(label, name, actual, expected, source)


def _changed(label: str, name: str, actual: str, expected: str, source: str) -> BadBundleError:
    return BadBundleError(
        f"{label}: file {name!r} was changed or damaged: its SHA-256 begins with {actual[:12]}, "
        f"not {expected[:12]} as {source} says; export the bundle again"
    )


def _unreadable(label: str, name: str, error: OSError | RuntimeError) -> BadBundleError:
    reason = error.strerror if isinstance(error, OSError) else "a loop of links"
    return BadBundleError(f"{label}: file {name!r} cannot be read ({reason})")
