"""Class files: the lines of a vocabulary, one entry each."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from dedos_deploy.errors import BadInputError

MOST_BYTES = 4 << 20
"""Largest class file; as many classes as have ids fit several times."""

# Six hexadecimal digits are no comment but a colour, wherever it stands.
_COMMENT = re.compile(r"(^|\s)#(?![0-9a-fA-F]{6}\s*(@|\s#|$)).*$")


def class_lines(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Return place, such as "line 3 of FILE", and text of every line of a UTF-8 file that says
    something.

    Blank lines and comments (# at the start of a line or after a space, but not a colour such as
    `#808080` at the end) are left out. A pipe is
    read to its end.

    Raises BadInputError for a file that cannot be read, is no file, or has more than MOST_BYTES.
    """
    name = f"class file {os.fspath(path)!r}"
    try:
        # "utf-8-sig" also accepts the byte order mark that some editors write.
        text = _read(Path(path), name).decode("utf-8-sig")
    except FileNotFoundError:
        raise BadInputError(
            f"{name} does not exist; check the path, or, if it is a class whose name has a "
            "separator, name another one beside it"
        ) from None
    except UnicodeDecodeError as error:
        # Not chained: the error holds the whole content.
        raise BadInputError(
            f"{name} is not UTF-8 text at byte {error.start}; save it as UTF-8"
        ) from None
    except (OSError, ValueError) as error:
        # ValueError: a path with a NUL character.
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"{name} cannot be read: {reason}; check the path") from error
    lines = ((number, _COMMENT.sub("", line)) for number, line in enumerate(text.split("\n"), 1))
    return [(f"line {number} of {path}", line) for number, line in lines if line.strip()]


def _read(path: Path, name: str) -> bytes:
    # Before it is opened: to open a device can already do something.
    _check_kind(os.stat(path).st_mode, name)
    with open(path, "rb") as stream:
        _check_kind(os.fstat(stream.fileno()).st_mode, name)
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise BadInputError(
            f"{name} has more than {MOST_BYTES >> 20} MiB, which no class list needs; check the path"
        )
    return content


def _check_kind(mode: int, name: str) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device or socket"
        raise BadInputError(f"{name} cannot be read: it is {kind}; name a text file")
