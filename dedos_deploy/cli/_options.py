"""Tables of options as arguments of argparse, and what was given as fields again."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from dedos_deploy.errors import BadInputError
from dedos_deploy.options import Option, size_hw
from dedos_deploy.places import ALL, Read, Written, check_apart, named
from dedos_deploy.tiles import parse_tiles

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


def add_json_line(group: argparse._ActionsContainer) -> None:
    """Add --json of a command that also prints text."""
    group.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on stdout, and the text on stderr",
    )


def add_tiles(group: argparse._ActionsContainer) -> None:
    """Add --tiles of a command that labels frames; its value is text that Segmenter.load takes, or None."""
    group.add_argument(
        "--tiles",
        type=typed(_tiles),
        metavar="auto|RxC|STRIDE|off",
        help="look at frames larger than the network through overlapping windows, too, which shows small "
        "things and costs a run of the network each: as many as the size asks for, rows and columns as "
        "2x3, or windows of the network's size so many pixels apart (default: the bundle's)",
    )


def _tiles(text: str) -> str:
    return str(parse_tiles(text))


def bundles_read(*names: str | None) -> list[Read]:
    """Return the bundles of a command line as what it reads; the embedded one is out of reach."""
    from dedos_deploy.bundle import DEMO_NAME

    return named("bundle", *(name for name in names if name != DEMO_NAME), closed=True)


def bundle_holds(path: str | Path) -> tuple[str, ...]:
    """Return the patterns of a bundle that is written: a folder is replaced as a whole."""
    return () if Path(path).suffix == ".dedos" else (ALL,)


def data_read(*entries: str | None) -> list[Read]:
    """Return labelled data of a command line, such as `davis:clips=0.5`, as what it reads.

    Nothing may be put into the folders where its pictures are looked for.
    """
    places = [_data_place(entry) for entry in entries if entry is not None]
    parts = (os.path.join(place, part) for place in places for part in ("images", "labels"))
    return [*named("data", *places), *named("data", *parts, closed=True)]


def _data_place(entry: str) -> str:
    """Return the path within [KIND:]FOLDER[=SHARE], as it stands where there is such a file."""
    if os.path.exists(entry):
        return entry
    bare, share, _ = entry.rpartition("=")
    return (bare if share else entry).rpartition(":")[2]


def check_run_folder(output: Path, holds: Iterable[str], read: Iterable[Read]) -> None:
    """Raise BadInputError where a run would write over what it reads.

    holds: patterns of what the run writes into its folder.
    """
    check_apart([Written(f"output {str(output)!r}", output, tuple(holds))], list(read))


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
