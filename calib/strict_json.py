"""Records read back from JSON: every field there, none unknown, each of its own kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dedos_deploy.errors import BadInputError, nearest, shown

Reader = Callable[[Any], Any]


def read_record(values: Any, readers: Mapping[str, Reader], *, where: str) -> dict[str, Any]:
    """Return `values` with every field passed through its reader.

    Raises BadInputError naming the first field of `where` that is unknown, missing or mistyped; a
    reader says that it cannot read by TypeError or ValueError.
    """
    if not isinstance(values, Mapping):
        raise BadInputError(f"{where} must be an object, not {type(values).__name__}")
    for key in values:
        if key not in readers:
            raise BadInputError(f"unknown key {shown(key)} in {where}{nearest(str(key), readers)}")
    for key in readers:
        if key not in values:
            raise BadInputError(f"{where} has no {key!r}; write it again")
    found: dict[str, Any] = {}
    for key, reader in readers.items():
        try:
            found[key] = reader(values[key])
        except BadInputError:
            raise
        except (TypeError, ValueError) as error:
            raise BadInputError(f"{shown(key)} in {where} is not usable: {error}") from error
    return found


def text(value: Any) -> str:
    """Return `value` if it is a text with a letter. Raises TypeError."""
    if not isinstance(value, str) or not value:
        raise TypeError(f"a text is needed, not {shown(value)}")
    return value


def number(value: Any) -> float:
    """A finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"a number is needed, not {shown(value)}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"a finite number of at least 0 is needed, not {shown(value)}")
    return float(value)


def count(value: Any) -> int:
    """A whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"a whole number of at least 0 is needed, not {shown(value)}")
    return value


def records(readers: Mapping[str, Reader], *, where: str) -> Callable[[Any], list[dict[str, Any]]]:
    """Return a reader of a list of records."""

    def read(values: Any) -> list[dict[str, Any]]:
        if not isinstance(values, list | tuple):
            raise TypeError(f"a list is needed, not {type(values).__name__}")
        return [read_record(value, readers, where=where) for value in values]

    return read


def optional(reader: Reader) -> Reader:
    """Return a reader that also takes null."""
    return lambda value: None if value is None else reader(value)


def choice(*allowed: str) -> Reader:
    """Return a reader of one of the `allowed` texts."""

    def read(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{shown(value)} is not one of {', '.join(allowed)}")
        return str(value)

    return read
