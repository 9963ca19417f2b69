"""Colours of classes: decided by the word, so that it looks the same in every output and every list."""

from __future__ import annotations

import colorsys
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.vocabulary import canonical_word

GOLDEN_RATIO = 0.618033988749895
SHADES = ((0.85, 1.0), (0.55, 1.0), (0.9, 0.7))
"""Saturation and brightness of successive rounds."""
ROUND = 8
APART = 13.0
"""Colours of one list are at least so far apart in CIELAB where there is room: seen side by side,
a difference of 2 can be told."""
TRIES = 24
MOST_COMPARED = 512
"""In longer lists colours are only not the same: no eye tells so many apart."""

Colour = tuple[int, int, int]
"""Blue, green and red, each in [0, 255]."""

_Lab = NDArray[np.float64]

MEANINGS = {
    # Ground, from what is driven on to what grows: a road is grey with the violet it has in
    # Cityscapes, a sidewalk rose beside it.
    "#8c88a8": "road, street, highway, asphalt, lane, motorway, roadway, driveway",
    "#e59ac4": "sidewalk, pavement, footpath, walkway, footway",
    "#f4f4ee": "road marking, lane marking, crosswalk, zebra crossing",
    "#c2a45a": "ground, terrain, dirt, earth, soil, gravel, path, mud",
    "#efdc9c": "sand, beach, desert",
    "#2f9e44": "vegetation, tree, trees, bush, plant, hedge, shrub, forest, leaf, leaves, palm",
    "#a5dd4b": "grass, lawn, meadow, field, crop",
    "#ff8ad8": "flower, flowers",
    "#79c7ff": "sky",
    "#d5e6f7": "cloud, clouds, snow, ice, fog",
    "#0e8fb0": "water, sea, river, lake, ocean, puddle, pool, canal",
    "#8a7360": "mountain, hill, rock, stone, cliff",
    # What is built.
    "#c8794a": "building, house, skyscraper, roof, tower, shop",
    "#a05f54": "wall, brick",
    "#e6bf9f": "fence, railing, guard rail, barrier, gate",
    "#8f6fb0": "bridge, tunnel",
    "#b6bcc8": "pole, post, column, pillar, street light, metal",
    "#ffad1f": "traffic light, traffic cone, cone",
    "#ffe433": "traffic sign, sign, sign symbol, signboard, billboard",
    # Who and what moves: warm for people, blue to magenta for vehicles.
    "#ff4f5e": "person, people, pedestrian, man, woman, child, boy, girl, human, worker",
    "#ff8243": "rider, cyclist, bicyclist, motorcyclist, face, hand",
    "#3f63ff": "car, automobile, vehicle, taxi, van",
    "#7f52f2": "truck, lorry, trailer, caravan",
    "#00c2a0": "bus, minibus",
    "#0b7a75": "train, tram, rail, railway, rail track",
    "#b93cf0": "motorcycle, motorbike, scooter",
    "#f23fc0": "bicycle, bike",
    "#63e6d4": "boat, ship",
    "#a9b8ff": "airplane, aeroplane, plane, helicopter, drone",
    "#a9672c": "dog, cat, horse, cow, sheep, animal, bird, bear",
    # Rooms.
    "#d0c0ae": "floor, tile, tiles, parquet",
    "#eceac4": "ceiling",
    "#8c4f1f": "door",
    "#58d3ee": "window, glass",
    "#e09b3d": "table, desk, counter",
    "#9d6be0": "chair, seat, bench, stool, armchair",
    "#6b4fb8": "sofa, couch",
    "#5a8fe0": "bed, pillow, blanket",
    "#b98a4e": "shelf, cabinet, cupboard, bookshelf, wardrobe, rack, wood",
    "#c45c8f": "curtain, clothes, shirt, dress",
    "#b04468": "carpet, rug",
    "#fff68a": "lamp, light",
    "#2b6ea6": "screen, monitor, tv, television, computer, laptop",
    "#d3b45c": "box, pallet, crate, carton, bag, suitcase",
    "#58c48a": "bottle, cup, bin, trash can",
    "#a8a63c": "stairs, step, steps, escalator",
}
"""Colours that say something, and the words that have them."""


def colour_bgr(css: str) -> Colour:
    """Return a colour that is written as CSS has it.

    >>> colour_bgr("#ff2606")
    (6, 38, 255)
    """
    red, green, blue = bytes.fromhex(css.removeprefix("#"))
    return blue, green, red


def css_colour(colour_bgr: Colour) -> str:
    """Return a colour as CSS has it.

    >>> css_colour((38, 38, 255))
    '#ff2626'
    """
    blue, green, red = colour_bgr
    return f"#{red:02x}{green:02x}{blue:02x}"


_MEANINGS = {word: colour_bgr(css) for css, words in MEANINGS.items() for word in words.split(", ")}


def spread_colour_bgr(number: int) -> Colour:
    """Return the colour with a number from 0 on, each part in [0, 255].

    Hues advance by the golden ratio, which keeps neighbouring numbers far apart however many there
    are; every eight numbers the shade changes too.

    >>> spread_colour_bgr(0), spread_colour_bgr(1)
    ((38, 38, 255), (255, 101, 38))
    """
    saturation, brightness = SHADES[number // ROUND % len(SHADES)]
    return _from_hsv(number * GOLDEN_RATIO % 1.0, saturation, brightness)


def word_colour_bgr(word: str) -> Colour:
    """Return the colour of a word on its own: that of its meaning where it is a common one.

    >>> css_colour(word_colour_bgr("Road")), css_colour(word_colour_bgr("lighthouse"))
    ('#8c88a8', '#fcff73')
    """
    word = canonical_word(word)
    return _MEANINGS.get(word) or spread_colour_bgr(zlib.crc32(word.encode()))


def colours_of(words: Sequence[str], chosen: Mapping[str, Colour] | None = None) -> list[Colour]:
    """Return a colour for each of a list of different words.

    chosen: colours of some of them, which they get in any case. A word has its own colour
    (`word_colour_bgr`) whatever its place in the list. Where two would look alike, the one that comes
    later in the alphabet gets a lighter or darker one of its hue, or else another hue; words with a
    meaning come before those without.
    """
    fixed = {canonical_word(word): colour for word, colour in (chosen or {}).items()}
    keys = [canonical_word(word) for word in words]
    known = _resolved(frozenset(keys), frozenset(fixed.items()))
    return [known[key] for key in keys]


@lru_cache(maxsize=64)
def _resolved(words: frozenset[str], chosen: frozenset[tuple[str, Colour]]) -> Mapping[str, Colour]:
    found = {word: colour for word, colour in chosen if word in words}
    left = sorted(words - found.keys(), key=lambda word: (word not in _MEANINGS, word))
    own = [word_colour_bgr(word) for word in left]
    if len(words) > MOST_COMPARED:
        return found | dict(zip(left, _unequal(own, set(found.values())), strict=True))
    taken = np.empty((len(words), 3))
    taken[: len(found)] = _lab(list(found.values()))
    for word, colour, seen in zip(left, own, _lab(own), strict=True):
        others = taken[: len(found)]
        if _nearest(seen[None], others)[0] < APART:
            colour, seen = _furthest(colour, others)
        taken[len(found)] = seen
        found[word] = colour
    return found


def _unequal(colours: Sequence[Colour], used: set[Colour]) -> Iterator[Colour]:
    """Return the colours, each that occurred before replaced by the next one that did not."""
    for colour in colours:
        number = int.from_bytes(bytes(colour), "big")
        while colour in used:
            number = (number + 1) % 2**24
            blue, green, red = number.to_bytes(3, "big")
            colour = blue, green, red
        used.add(colour)
        yield colour


def _furthest(own: Colour, taken: _Lab) -> tuple[Colour, _Lab]:
    """Return the first variant of a colour that is APART from all that are taken, or else the one
    that is furthest from them, and its CIELAB values."""
    tried = list(itertools.islice(_variants(own), TRIES))
    seen = _lab(tried)
    nearest = _nearest(seen, taken)
    apart = np.flatnonzero(nearest >= APART)
    best = int(apart[0] if len(apart) else nearest.argmax())
    return tried[best], seen[best]


def _nearest(seen: _Lab, taken: _Lab) -> NDArray[np.float64]:
    """Return the distance of each colour to the nearest one that is taken, float64 [N]."""
    apart = np.linalg.norm(seen[:, None] - taken, axis=-1)
    return np.asarray(apart.min(axis=1, initial=np.inf))


def _variants(own: Colour) -> Iterator[Colour]:
    """Return shades of a colour, and then those of other hues, without an end."""
    blue, green, red = (part / 255 for part in own)
    hue, saturation, brightness = colorsys.rgb_to_hsv(red, green, blue)
    for turn in itertools.count():
        at = (hue + turn * GOLDEN_RATIO) % 1.0
        # Up to here by eye: a third darker, paler, and both.
        yield _from_hsv(at, min(1.0, saturation * 1.1), brightness * 0.68)
        yield _from_hsv(at, saturation * 0.5, brightness + 0.8 * (1.0 - brightness))
        yield _from_hsv(at, saturation * 0.6, brightness * 0.8)


def _from_hsv(hue: float, saturation: float, brightness: float) -> Colour:
    red, green, blue = (
        round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, brightness)
    )
    return blue, green, red


def _lab(colours: Sequence[Colour]) -> _Lab:
    """Return CIELAB values (D65), float64 [N, 3], in which distances are about as they are seen."""
    part = np.array(colours, np.float64).reshape(-1, 3)[:, ::-1] / 255
    light = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = light @ np.array(rows).T / (0.9505, 1.0, 1.0888)
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
