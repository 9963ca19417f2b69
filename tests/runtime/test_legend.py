"""Legends and contours: what a reader of the picture sees, and what stays visible under them."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import result_for

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import OverlayPainter
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks import lettering
from dedos_deploy.runtime.sinks.legend import ABSENT, legend_beside, legend_inside
from dedos_deploy.runtime.sinks.palette import word_colour_bgr

SIZES = [(120, 160), (480, 640), (1080, 1920), (720, 540)]


def result_of(label_map: NDArray[np.uint8], classes: tuple[str, ...]) -> Segmentation:
    counts = np.bincount(label_map.ravel(), minlength=256)[: len(classes)].astype(np.int64)
    base = result_for(np.zeros((*label_map.shape, 3), np.uint8), classes=classes)
    return Segmentation(**{**vars(base), "label_map": label_map, "counts": counts})


def painted(result: Segmentation, **options: object) -> NDArray[np.uint8]:
    frame = np.full((*result.label_map.shape, 3), 100, np.uint8)
    return OverlayPainter(**options).paint(frame, result)  # type: ignore[arg-type]


@pytest.mark.parametrize("size_hw", SIZES)
def test_a_legend_beside_the_picture_hides_nothing_of_it(size_hw: tuple[int, int]) -> None:
    result = result_of(np.zeros(size_hw, np.uint8), ("road", "person"))
    plain, beside = painted(result, legend="off"), painted(result, legend="beside")
    height, width = size_hw
    np.testing.assert_array_equal(beside[:, :width], plain)
    assert beside.shape[0] == height and beside.shape[1] > width
    column = beside[:, width:].reshape(-1, 3)
    assert (column == word_colour_bgr("road")).all(-1).any()
    # A class that does not occur has its colour only as a frame, and its name in grey.
    full = (column == word_colour_bgr("road")).all(-1).sum()
    frame = (column == word_colour_bgr("person")).all(-1).sum()
    assert frame < 0.7 * full
    assert (column == (ABSENT[0], ABSENT[1], ABSENT[2])[::-1]).all(-1).any() or height < 200


def test_the_column_is_as_wide_whatever_occurs() -> None:
    words = ("road", "person", *(f"a rather long word {number}" for number in range(40)))
    labels = np.zeros((200, 300), np.uint8)
    first, second = (
        legend_beside(result_of(labels, words)),
        legend_beside(result_of(labels + 9, words)),
    )
    assert first is not None and second is not None
    assert first.shape == second.shape and first.shape[1] % 2 == 0


@pytest.mark.parametrize("size_hw", SIZES)
def test_a_legend_in_the_picture_takes_a_third_of_it_at_most(size_hw: tuple[int, int]) -> None:
    words = tuple(f"word {number}" for number in range(60))
    panel = legend_inside(result_of(np.zeros(size_hw, np.uint8), words))
    assert panel is not None
    assert panel.shape[0] * panel.shape[1] <= 0.36 * size_hw[0] * size_hw[1]


def test_a_legend_moves_out_of_the_way_of_a_small_thing_and_stays_there() -> None:
    labels = np.zeros((480, 640), np.uint8)
    labels[10:60, 10:60] = 1
    painter = OverlayPainter(1.0)
    frame = np.zeros((480, 640, 3), np.uint8)
    picture = painter.paint(frame, result_of(labels, ("road", "person")))
    assert (picture[10:60, 10:60] == word_colour_bgr("person")).all()
    assert not (picture[10:60, -60:-20] == word_colour_bgr("road")).all()
    elsewhere = np.zeros((480, 640), np.uint8)
    elsewhere[10:60, -60:-10] = 1
    picture = painter.paint(frame, result_of(elsewhere, ("road", "person")))
    assert (picture[10:60, 10:60] == word_colour_bgr("road")).all()


def test_contours_are_drawn_in_the_colours_of_both_sides() -> None:
    labels = np.full((60, 90), 255, np.uint8)
    labels[:, :30], labels[:, 30:60] = 0, 1
    picture = painted(result_of(labels, ("road", "sky")), legend="off", contours=True)
    assert tuple(picture[30, 29]) == word_colour_bgr("road")
    assert tuple(picture[30, 30]) == tuple(picture[30, 59]) == word_colour_bgr("sky")
    assert tuple(picture[30, 60]) == (100, 100, 100)
    assert tuple(picture[30, 15]) != word_colour_bgr("road")


def test_a_legend_that_is_none_is_refused() -> None:
    with pytest.raises(BadInputError, match="a legend is one of on, beside, off, not 'top'"):
        OverlayPainter(legend="top")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "word",
    [
        "道路",
        "どうろ",
        "도로",
        "Straße",
        "träd",
        "дорога",
        "δρόμος",
        "🚗",
        "🚗 car",
        "السماء",
        "สะพาน",
        "सड़क",
        "גשר",
    ],
)
def test_words_of_other_scripts_are_drawn_by_bundled_fonts(
    word: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lettering, "_of_the_system", lambda: ())
    runs = lettering._runs.__wrapped__(word)
    assert "".join(run for run, _ in runs) == word
    assert all(lettering._has(path, letter) for run, path in runs for letter in run)
    assert lettering.text_width(word, 20) > 0
    assert not caplog.records


def test_a_letter_that_only_the_system_has_is_drawn_by_its_font(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy(Path(lettering.__file__).parent / "fonts" / "thai.ttf", tmp_path / "NotoThai.TTF")
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    monkeypatch.setattr(lettering, "BUNDLED", ("latin.ttf",))
    monkeypatch.setattr(lettering, "_system_folders", lambda: iter([str(tmp_path), "/none"]))
    caches = (lettering._bundled, lettering._of_the_system, lettering._font_with)
    for kept in caches:
        kept.cache_clear()
    try:
        runs = lettering._runs.__wrapped__("a ส")
    finally:
        monkeypatch.undo()
        for kept in caches:
            kept.cache_clear()
    assert [Path(path).name for _, path in runs] == ["latin.ttf", "NotoThai.TTF"]


def test_a_letter_that_no_font_has_becomes_a_box_and_is_said_in_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lettering, "_of_the_system", lambda: ())
    lettering._font_with.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert lettering.text_width("wall \U00010380", 20) > lettering.text_width("wall ", 20)
    assert [record.getMessage() for record in caplog.records] == [
        "no font here has U+10380 of the word 'wall \U00010380', which pictures show as boxes; install "
        "one, on Debian and Ubuntu by apt-get install fonts-noto"
    ]
    lettering._font_with.cache_clear()
