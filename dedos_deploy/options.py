"""Options of a command line as data, which stand beside the dataclass that they fill.

`cli/_options.py` makes arguments of them, and what was given into fields again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dedos_deploy.errors import BadInputError, shown

MOST = 2**31 - 1
"""The largest whole number that an option takes unless it says otherwise."""


@dataclass(frozen=True)
class Option:
    """One option that fills one field of a dataclass, which keeps its default when it is left out."""

    field: str
    """Name of the field."""

    help: str
    """What --help says of it; `{default}` stands for `default`."""

    type: Callable[[str], object] = str
    """Makes a value of what was typed. Raises BadInputError for what it cannot read."""

    flag: str = ""
    """Such as --size, or several that mean the same with spaces between; empty: named as the field."""

    metavar: str | None = None
    """What stands for the value in --help; None: the flag in capitals, or the choices."""

    choices: tuple[str, ...] = ()
    """All that may be given; empty: whatever `type` reads."""

    several: bool = False
    """Takes one value or more, which the field gets as a tuple."""

    switch: Literal["on", "off", "both"] | None = None
    """Takes no value: the flag turns the field on, or off; both: --x does one and --no-x the other."""

    default: object = None
    """What the dataclass has, where the help says it; the tests hold the two together."""

    @property
    def flags(self) -> list[str]:
        """All names of the option, the main one first."""
        return self.flag.split() or ["--" + self.field.replace("_", "-")]


def size_hw(text: str) -> tuple[int, int]:
    """Return (height, width) of `HxW`. Raises BadInputError.

    >>> size_hw("240x320")
    (240, 320)
    """
    match = re.fullmatch(r"0*([1-9]\d{0,4})x0*([1-9]\d{0,4})", text.strip().lower(), re.ASCII)
    if match is None:
        raise BadInputError(f"{text!r} is not a size; write HEIGHTxWIDTH, as 240x320")
    return int(match[1]), int(match[2])


def whole_number(least: int = 1, most: int = MOST) -> Callable[[str], int]:
    """Return what reads a whole number in [least, most] and raises BadInputError for anything else.

    >>> whole_number()("12"), whole_number(0)("0")
    (12, 0)
    """
    allowed = f"from {least} on" if most == MOST else f"from {least} to {most}"

    def read(text: str) -> int:
        found = re.fullmatch(r"[+-]?\d{1,10}", text.strip(), re.ASCII)
        if found is None or not least <= int(found[0]) <= most:
            raise BadInputError(f"{shown(text)} is no whole number {allowed}; give one")
        return int(found[0])

    return read


def real_number(
    *, above: float = -math.inf, least: float = -math.inf, below: float = math.inf
) -> Callable[[str], float]:
    """Return what reads a finite number within bounds and raises BadInputError for anything else.

    >>> real_number(above=0)("0.5"), real_number(least=0, below=1)("0")
    (0.5, 0.0)
    """
    bounds = ((above, "above"), (least, "from"), (below, "below"))
    allowed = ", ".join(f"{word} {bound:g}" for bound, word in bounds if math.isfinite(bound))

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > above and value >= least and value < below):
            raise BadInputError(f"{shown(text)} is no finite number {allowed}; give one")
        return value

    return read
