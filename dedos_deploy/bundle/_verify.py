"""A bundle folder held against its manifest; the first thing that is wrong is named."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dedos_deploy.bundle._fields import shown
from dedos_deploy.bundle._names import ENGINES, MANIFEST
from dedos_deploy.bundle.manifest import Manifest
from dedos_deploy.errors import BadBundleError
from dedos_deploy.files import sha256_of

SMALL_FILE = 1 << 20
"""Files up to this many bytes are hashed even when hashing is not asked for."""

_MAX_MANIFEST = 8 << 20


def verify_folder(folder: Path, *, label: str, hashes: bool) -> Manifest:
    """Return the manifest of a bundle folder after holding every file against it.

    label: what the bundle is called in messages; hashes: whether large files are hashed too.

    Raises BadBundleError naming the first file or field that is wrong: a manifest that cannot be
    used, a file missing, not listed, not regular, leading out of the folder, or changed.
    """
    manifest = read_manifest(folder, label=label)
    for name in manifest.files:
        _check_regular(folder, name, label)
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


def read_manifest(folder: Path, *, label: str) -> Manifest:
    """Return the manifest of a bundle folder, checked on its own.

    Raises BadBundleError naming the field that is wrong.
    """
    _check_regular(folder, MANIFEST, label)
    try:
        size = (folder / MANIFEST).stat().st_size
        if size > _MAX_MANIFEST:
            raise BadBundleError(f"{label}: {MANIFEST} has {size} bytes, more than a manifest can")
        text = (folder / MANIFEST).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadBundleError(f"{label}: {MANIFEST} is not UTF-8 text") from error
    except OSError as error:
        raise _unreadable(label, MANIFEST, error) from error
    return Manifest.from_json(text, where=f"{label}: {MANIFEST}")


def _check_regular(folder: Path, name: str, label: str) -> None:
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
        if entry.is_dir(follow_symlinks=False):
            if name != ENGINES:
                yield from _files_below(folder / entry.name, f"{name}/")
        else:
            yield name


def _check_hash(path: Path, name: str, expected: str, *, label: str, always: bool) -> None:
    try:
        if not always and path.stat().st_size > SMALL_FILE:
            return
        with path.open("rb") as stream:
            actual = sha256_of(stream)
    except OSError as error:
        raise _unreadable(label, name, error) from error
    if actual != expected:
        raise BadBundleError(
            f"{label}: file {name!r} was changed or damaged: its SHA-256 begins with "
            f"{actual[:12]}, not {expected[:12]} as {MANIFEST} says; export the bundle again"
        )


def _unreadable(label: str, name: str, error: OSError | RuntimeError) -> BadBundleError:
    reason = error.strerror if isinstance(error, OSError) else "a loop of links"
    return BadBundleError(f"{label}: file {name!r} cannot be read ({reason})")
