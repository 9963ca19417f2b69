"""Class files: the lines of a vocabulary, one entry each."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from dedos_deploy.errors import BadInputError

MOST_BYTES = 4 << 20
"""Largest class file; as many classes as have ids fit several times."""

# Six hexadecimal digits are no comment but a colour, wherever it stands.
_COMMENT = re.compile(r"(^|\s)#(?![0-9a-fA-F]{6}\s*(@|\s#|$)).*$")

_STRUCTURES = (re.compile(r"(?:[\[{<]|---)"), re.compile(r".*:"))
"""How a file of JSON, YAML or XML begins, and a line of YAML that only says what comes."""

_ROWS = {
    "a list of YAML": re.compile(r"[-*] .+"),
    "a numbered list": re.compile(r"\d{1,9} ?(?:[:;=,)]|\. ).+"),
    "a table of words and numbers": re.compile(r".+[:;=,] ?\d{1,9} ?,?"),
}
"""What every line of other files is, such as `- road`, `0: road` and `road,0`."""

_COUNTED = (
    re.compile(r"(?P<number>\d{1,9}) (?P<word>.+)"),
    re.compile(r"(?P<word>.+) (?P<number>\d{1,9})"),
)


def class_content(path: str | os.PathLike[str]) -> bytes:
    """Return what is in a class file; a pipe is read to its end.

    Raises BadInputError for a file that cannot be read, is no file, or has more than MOST_BYTES.
    """
    name = _named(path)
    try:
        return _read(Path(path), name)
    except FileNotFoundError:
        raise BadInputError(
            f"{name} does not exist; check the path, or, if it is a class whose name has a "
            "separator, name another one beside it"
        ) from None
    except (OSError, ValueError) as error:
        # ValueError: a path with a NUL character.
        reason = getattr(error, "strerror", None) or error
        raise BadInputError(f"{name} cannot be read: {reason}; check the path") from error


def class_lines(path: str | os.PathLike[str], content: bytes) -> list[tuple[str, str]]:
    """Return place, such as "line 3 of FILE", and text of every line that says something.

    content: of the file, UTF-8. Blank lines and comments (# at the start of a line or after a space,
    but not a colour such as `#808080` at the end) are left out.

    Raises BadInputError for what is no text, or looks like another format.
    """
    name = _named(path)
    try:
        # "utf-8-sig" also accepts the byte order mark that some editors write.
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Not chained: the error holds the whole content.
        raise BadInputError(
            f"{name} is not UTF-8 text at byte {error.start}; save it as UTF-8"
        ) from None
    lines = ((number, _COMMENT.sub("", line)) for number, line in enumerate(text.split("\n"), 1))
    found = [(f"line {number} of {path}", line) for number, line in lines if line.strip()]
    other = other_format([line for _, line in found]) if found else None
    if other is not None:
        raise BadInputError(f"{name} looks like {other}; write one class a line, and nothing else")
    return found


def other_format(lines: Sequence[str]) -> str | None:
    """Return what the lines of a file, at least one, look like; None for one class a line.

    >>> other_format(["0: road", "1: sky"]), other_format(["road 1", "sky 2"])
    ('a numbered list', 'a numbered list')
    >>> other_format(["thing 1", "thing 2"]), other_format(["sky, blue", "2 wheeler"])
    (None, None)
    """
    lines = [" ".join(line.split()) for line in lines]
    if _STRUCTURES[0].match(lines[0]) or any(map(_STRUCTURES[1].fullmatch, lines)):
        return "JSON, YAML or XML"
    # The first line may be a heading.
    for rows in (lines, lines[1:]) if len(lines) > 2 else (lines,):
        for name, pattern in _ROWS.items():
            if all(map(pattern.fullmatch, rows)):
                return name
        if any(_is_counted([pattern.fullmatch(row) for row in rows]) for pattern in _COUNTED):
            return "a numbered list"
    return None


def _is_counted(rows: Sequence[re.Match[str] | None]) -> bool:
    """Tell whether rows have words and rising numbers of their own; few have to begin with 0 or 1."""
    found = [row for row in rows if row is not None]
    words, numbers = {row["word"] for row in found}, [int(row["number"]) for row in found]
    if not len(rows) == len(words) == len(set(numbers)) or numbers != sorted(numbers):
        return False
    return len(rows) > 2 or numbers in ([0], [0, 1], [1, 2])


def _named(path: str | os.PathLike[str]) -> str:
    return f"class file {os.fspath(path)!r}"


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
