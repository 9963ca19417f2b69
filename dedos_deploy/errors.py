"""Errors a user can cause or meet, and the one way to ask for an optional dependency.

Every message is one sentence that says what was received, what is allowed and what to do next.
Command lines print it on stderr and exit with code 2; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import ModuleType


class DedosError(Exception):
    """Base of every error that the user can act on."""


class BadInputError(DedosError, ValueError):
    """An argument, a file or a class list is not usable."""


class UnfinishedError(BadInputError):
    """A request takes longer than it may; what was done is kept, so asking again gets on with it."""


class BadBundleError(DedosError):
    """A bundle is damaged, incomplete, or does not match its manifest."""


class UnsupportedVersionError(BadBundleError):
    """An artefact was written by a newer format than this version reads."""


class SourceError(DedosError):
    """A camera, stream, video or folder cannot be opened or read."""


class SinkError(DedosError):
    """An output cannot be opened or written."""


class EngineError(DedosError):
    """An engine cannot be built, loaded or run."""


class ParityError(DedosError):
    """A deployed graph disagrees with the model it was exported from."""


class MissingExtraError(DedosError, ImportError):
    """An optional dependency is not installed."""


class OpenCvError(DedosError, ImportError):
    """OpenCV is not installed, too old, or made for another NumPy."""


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Return the imported `module`, or raise MissingExtraError naming the extra that brings it.

    >>> require("json", extra="train", purpose="reading settings").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".", maxsplit=1)[0]:
            raise
        raise _missing(module, extra, purpose) from error


def package_folder(module: str, *, extra: str, purpose: str) -> Path:
    """Return the folder of an installed package without importing it, which may take seconds.

    Raises MissingExtraError, as `require` does.

    >>> package_folder("json", extra="train", purpose="reading settings").name
    'json'
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise _missing(module, extra, purpose)
    return Path(spec.origin).parent


def _missing(module: str, extra: str, purpose: str) -> MissingExtraError:
    from dedos_deploy.installation import pip_install

    return MissingExtraError(
        f"{purpose} needs the package {module.split('.', maxsplit=1)[0]!r}, which is not installed; "
        f"run: {pip_install(extra)}"
    )


_HINT_LENGTH = 80
_HINT_NAMES = 500
_LISTED = 30


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word closest to `name`, or "" when none is close.

    Long words, and those beyond the first 500, are not looked at: comparing takes the square of the
    length, and the known words may come from a hostile file.

    >>> nearest("presett", ["preset", "target"])
    ", did you mean 'preset'?"
    """
    words = [word for word in islice(known, _HINT_NAMES) if len(word) <= _HINT_LENGTH]
    close = difflib.get_close_matches(name[:_HINT_LENGTH], words, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def shown(value: object, limit: int = 80) -> str:
    """Return `repr(value)` on one line, shortened to `limit` characters: for what a file holds.

    >>> shown("a" * 90)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa..."
    """
    # Sliced first: the repr of a hostile value may be as large as the file it came from.
    text = repr(value[: limit + 1] if isinstance(value, (str, list, tuple)) else value)
    text = " ".join(line.strip() for line in text.splitlines())  # an array has one per row
    return text if len(text) <= limit else text[: limit - 3] + "..."


def listed(names: Iterable[str]) -> str:
    """Return names for a message, all or the first 30, each shortened to 80 characters.

    >>> listed(["road", "car"]), listed(str(i) for i in range(99))[-11:]
    ('road, car', '29 and more')
    """
    first = list(islice(names, _LISTED + 1))
    text = ", ".join(name[:_HINT_LENGTH] for name in first[:_LISTED])
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f"{printable} and more" if len(first) > _LISTED else printable
