"""Class files: a vocabulary with one entry a line, and what a person may type instead of one."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from dedos_deploy.errors import BadInputError
from dedos_deploy.vocabulary import Vocabulary, parse_vocabulary, vocabulary_of

MOST_BYTES = 4 << 20
"""Largest class file; as many classes as have ids fit several times."""

_COMMENT = re.compile(r"(^|\s)#.*$")


def vocabulary_from_file(path: str | os.PathLike[str]) -> Vocabulary:
    """Return the vocabulary in a UTF-8 file with one entry a line, as `parse_vocabulary` takes them.

    Blank lines and comments (# at the start of a line or after a space) are skipped. The path must
    come from a person or a program, never from a request. A pipe is read to its end.

    Raises BadInputError for a file that cannot be read, is no file, or has more than MOST_BYTES,
    and for lines that are no entries: by their numbers, without their text.
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
    items = [(f"line {number} of {path}", line) for number, line in lines if line.strip()]
    return vocabulary_of(items, str(path), quoting=False)


def typed_vocabulary(text: str) -> Vocabulary:
    """Return the vocabulary that a person typed on a command line: a list of words, or a file.

    Text with a path separator or the suffix .txt, and no comma, names a file. No other place in the
    program may take a string for a file name: this function is for `--classes` and its like alone.

    Raises BadInputError, as `parse_vocabulary` and `vocabulary_from_file` do.
    """
    return vocabulary_from_file(text) if _names_a_file(text) else parse_vocabulary(text)


def _names_a_file(text: str) -> bool:
    if "," in text:
        return False
    return text.strip().lower().endswith(".txt") or "/" in text or os.sep in text


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
