"""Words in pictures, in every script that a font at hand has."""

from __future__ import annotations

import logging
import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

log = logging.getLogger(__name__)

BUNDLED = (
    "latin.ttf",
    "chinese.otf",
    "japanese_traditional.otf",
    "korean.otf",
    "emoji.ttf",
    "arabic.ttf",
    "hebrew.ttf",
    "devanagari.ttf",
    "thai.ttf",
)
"""Cut from Noto's fonts (THIRD_PARTY.md), the likeliest first."""

SYSTEM_FOLDERS = {
    "darwin": ("~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts"),
    "win32": (r"~\AppData\Local\Microsoft\Windows\Fonts", r"C:\Windows\Fonts"),
}
UNIX_FOLDERS = ("~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts")
SUFFIXES = (".ttf", ".otf", ".ttc")
PROBE = 16
"""Pixels at which a font is asked for a letter."""

NOBODYS = "\U0010fffe"
"""Not a character, so what a font draws for it is what it draws for all that it lacks."""

Colour = tuple[int, int, int, int]
"""Red, green, blue and opacity, each in [0, 255]."""


def text_width(text: str, size: int) -> int:
    """Return how many pixels wide a text is at a font size in pixels."""
    return round(sum(_font(path, size).getlength(run) for run, path in _runs(text)))


def draw_text(
    draw: ImageDraw, text: str, left_and_baseline: tuple[int, int], size: int, colour: Colour
) -> None:
    """Draw one line of text; what no font has becomes boxes, and is said once."""
    left, baseline = left_and_baseline
    at = float(left)
    for run, path in _runs(text):
        font = _font(path, size)
        draw.text((at, baseline), run, font=font, fill=colour, anchor="ls")
        at += font.getlength(run)


@lru_cache(maxsize=1 << 10)
def _runs(text: str) -> tuple[tuple[str, str], ...]:
    """Split a text into runs that one font has each, with the paths of the fonts."""
    runs: list[tuple[str, str]] = []
    missing = []
    for letter in unicodedata.normalize("NFC", text):
        if _only_joins(letter):
            # Where a font knows nothing of it there is nothing to see either.
            if runs and _has(runs[-1][1], letter):
                runs[-1] = runs[-1][0] + letter, runs[-1][1]
            continue
        path = runs[-1][1] if runs and _has(runs[-1][1], letter) else _font_with(letter)
        if path is None:
            missing.append(letter)
        # The first font draws a box for what it lacks.
        path = path or _bundled()[0]
        if runs and runs[-1][1] == path:
            runs[-1] = runs[-1][0] + letter, path
        else:
            runs.append((letter, path))
    if missing:
        _say_missing(text, missing)
    return tuple(runs)


def _only_joins(letter: str) -> bool:
    """Return whether a letter only changes how its neighbours look."""
    return unicodedata.category(letter) == "Cf" or "\ufe00" <= letter <= "\ufe0f"


def _say_missing(text: str, missing: list[str]) -> None:
    codes = " ".join(f"U+{ord(letter):04X}" for letter in dict.fromkeys(missing))
    log.warning(
        "no font here has %s of the word %r, which pictures show as boxes; install one, on Debian "
        "and Ubuntu by apt-get install fonts-noto",
        codes,
        text,
    )


@cache
def _font_with(letter: str) -> str | None:
    return next((path for path in _bundled() + _of_the_system() if _has(path, letter)), None)


@cache
def _bundled() -> tuple[str, ...]:
    folder = Path(__file__).parent / "fonts"
    return tuple(str(folder / name) for name in BUNDLED)


@cache
def _of_the_system() -> tuple[str, ...]:
    """Return the paths of all fonts that are installed, upright sans serif ones of Noto first."""
    paths = sorted({path for folder in _system_folders() for path in _fonts_below(folder)})

    def rank(path: str) -> tuple[bool, bool]:
        name = Path(path).stem.lower()
        odd = ("bold", "italic", "oblique", "serif", "mono", "light", "condensed", "black")
        return any(part in name for part in odd), not name.startswith("noto")

    return tuple(sorted(paths, key=rank))


def _system_folders() -> Iterator[str]:
    for folder in SYSTEM_FOLDERS.get(sys.platform, UNIX_FOLDERS):
        yield os.path.expanduser(folder)


def _fonts_below(folder: str) -> Iterator[str]:
    # Folders that cannot be entered are passed over: there is a warning if a letter is not found.
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(SUFFIXES):
                yield os.path.join(parent, name)


@lru_cache(maxsize=1 << 14)
def _has(path: str, letter: str) -> bool:
    font = _probe(path)
    if font is None:
        return False
    drawn, box = font.getmask(letter), font.getmask(NOBODYS)
    return (drawn.size, bytes(drawn)) != (box.size, bytes(box))


@cache
def _probe(path: str) -> FreeTypeFont | None:
    from PIL import ImageFont

    try:
        return ImageFont.truetype(path, PROBE, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        return None  # damaged, or of bitmaps in other sizes: not one that can be drawn with


@lru_cache(maxsize=64)
def _font(path: str, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(path, size)
