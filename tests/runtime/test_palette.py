"""Colours of words: they mean something, stay the same everywhere, and can be told apart."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.palette import (
    APART,
    MEANINGS,
    MOST_COMPARED,
    _lab,
    colour_bgr,
    colours_of,
    css_colour,
    word_colour_bgr,
)
from dedos_deploy.vocabulary import canonical_word

STREET = ["road", "sidewalk", "car", "tree", "building", "sky", "grass", "person", "fence", "pole"]


def distances(words: list[str]) -> np.ndarray:
    seen = _lab(colours_of(words))
    return np.linalg.norm(seen[:, None] - seen, axis=-1) + 1e9 * np.eye(len(words))


def test_common_words_have_colours_that_say_something() -> None:
    blue, green, red = word_colour_bgr("road")
    assert max(blue, green, red) - min(blue, green, red) < 40, "a road is no alarm"
    for word, strongest in {"vegetation": 1, "grass": 1, "sky": 0, "water": 0, "person": 2}.items():
        assert int(np.argmax(word_colour_bgr(word))) == strongest, word
    assert word_colour_bgr("  Traffic   LIGHT") == word_colour_bgr("traffic light")
    assert distances(STREET).min() > 1.5 * APART


def test_every_word_of_the_table_stands_once_and_as_the_text_tower_sees_it() -> None:
    words = [word for line in MEANINGS.values() for word in line.split(", ")]
    assert len(set(words)) == len(words)
    assert [canonical_word(word) for word in words] == words


def test_a_word_has_its_colour_whatever_its_place_and_company() -> None:
    words = [*STREET, "lighthouse", "zeppelin", "道路"]
    colours = dict(zip(words, colours_of(words), strict=True))
    for seed in range(5):
        mixed = words[:]
        random.Random(seed).shuffle(mixed)
        assert dict(zip(mixed, colours_of(mixed), strict=True)) == colours
    for word in words:
        assert colours_of([word]) == [word_colour_bgr(word)]


def test_words_of_one_list_can_be_told_apart_also_when_they_mean_the_same() -> None:
    words = ["tree", "vegetation", "bush", "road", "street", *(f"thing {i}" for i in range(15))]
    assert distances(words).min() >= APART
    tree, vegetation, bush = colours_of(["tree", "vegetation", "bush"])
    assert all(green == max(blue, green, red) for blue, green, red in (tree, vegetation, bush))


@pytest.mark.parametrize("count", [255, MOST_COMPARED + 100, 20_000])
def test_long_lists_have_no_colour_twice(count: int) -> None:
    assert len(set(colours_of([f"class {number}" for number in range(count)]))) == count


def test_a_chosen_colour_is_kept_and_the_others_make_room() -> None:
    sky = word_colour_bgr("sky")
    colours = colours_of(["sky", "kite"], {"kite": sky})
    assert colours[1] == sky
    assert np.linalg.norm(np.diff(_lab(colours), axis=0)) >= APART


def test_colours_as_css() -> None:
    for css in itertools.chain(MEANINGS, ["#000000", "#ff2606"]):
        assert css_colour(colour_bgr(css)) == css


def test_a_result_without_colours_has_those_of_its_words() -> None:
    empty = np.zeros((1, 1), np.uint8)
    counts = np.array([1, 0], np.int64)
    result = Segmentation(empty, empty, ("sky", "road"), (0, 1), counts, 255, 1, 0.0, {})
    assert result.colours_bgr == (word_colour_bgr("sky"), word_colour_bgr("road"))
