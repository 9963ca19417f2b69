"""Folders that appear whole or not at all, and say in a file how they were made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.files import replacing_folder

RECORD = "dedos-label.json"
"""File of such a folder; only a folder that has one is replaced."""


@contextmanager
def whole_folder(dest: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder, which becomes `dest` when the block ends well and `write_record` was called.

    overwrite: replace one that was made here. Raises BadInputError where `dest` cannot be had, and
    SinkError when it cannot be written; nothing is left behind then.
    """
    dest = Path(os.path.abspath(dest))
    _check_dest(dest, overwrite=overwrite)
    try:
        with replacing_folder(dest) as staging:
            yield staging
            # Looked at again: something may have appeared meanwhile.
            _check_dest(dest, overwrite=overwrite)
    except OSError as error:
        raise _unwritten(dest, error) from error


def write_record(folder: Path, values: Mapping[str, object]) -> None:
    """Write how a folder was made into it."""
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _check_dest(dest: Path, *, overwrite: bool) -> None:
    name = f"output {str(dest)!r}"
    if not dest.parent.is_dir():
        raise BadInputError(f"folder {str(dest.parent)!r} does not exist; create it first")
    if not os.path.lexists(dest) or (dest.is_dir() and not any(dest.iterdir())):
        return
    if not dest.is_dir() or dest.is_symlink():
        raise BadInputError(f"{name} is no folder; give another name")
    if not (dest / RECORD).is_file():
        raise BadInputError(
            f"{name} holds something else (it has no {RECORD}), so nothing there is replaced; give "
            "another folder"
        )
    if not overwrite:
        raise BadInputError(f"{name} exists; use --overwrite to replace it, or give another folder")


def _unwritten(dest: Path, error: OSError) -> SinkError:
    return SinkError(
        f"output {str(dest)!r} cannot be written ({error.strerror or error}); nothing was left behind, "
        "choose another place or make room"
    )
