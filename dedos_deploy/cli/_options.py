"""Tables of options as arguments of argparse, and what was given as fields again."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from dedos_deploy.errors import BadInputError
from dedos_deploy.options import Option, size_hw

Value = TypeVar("Value")
_SWITCHES = {"on": "store_true", "off": "store_false", "both": argparse.BooleanOptionalAction}


def add_options(group: argparse._ActionsContainer, options: Iterable[Option]) -> None:
    """Add every option to a parser or a group of it; what is left out is None when parsed."""
    for option in options:
        given: dict[str, Any] = {"help": _help(option), "default": None}
        if option.switch:
            given["action"] = _SWITCHES[option.switch]
        else:
            given |= {"type": typed(option.type), "metavar": option.metavar}
            given |= {"choices": option.choices or None, "nargs": "+" if option.several else None}
        group.add_argument(*option.flags, **given)


def fields_of(args: argparse.Namespace, options: Iterable[Option]) -> dict[str, Any]:
    """Return the fields that were given, by name, for the dataclass or its `replace`."""
    found: dict[str, Any] = {}
    for option in options:
        value = getattr(args, option.flags[0].lstrip("-").replace("-", "_"))
        if value is not None:
            found[option.field] = tuple(value) if option.several else value
    return found


def typed(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Return a type of argparse that says what `parse` says of a text which it refuses."""

    @functools.wraps(parse)
    def read(text: str) -> Value:
        try:
            return parse(text)
        except BadInputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _help(option: Option) -> str:
    value = option.default
    if isinstance(value, tuple):
        shown = ("x" if option.type is size_hw else " ").join(map(str, value))
    else:
        shown = f"{value:g}" if isinstance(value, float) else str(value)
    return option.help.replace("{default}", shown)
