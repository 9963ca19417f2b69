"""Labels that are stable in time: the motion that is found, whose past is whose, and when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import ConstantEngine, encode

from dedos_deploy.errors import EngineError
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.slots import Thresholds
from dedos_deploy.runtime.stabilising import Stabiliser, exposure, grey_of
from dedos_deploy.scenes import render_image

Array = NDArray[Any]
CELLS = (24, 32)
NOISE = 0.04


def view(picture_bgr: Array, *, x: float = 0.0, y: float = 0.0) -> Array:
    """Return what a camera of 96x128 pixels sees of a larger picture, moved by so many pixels."""
    moved = np.float32([[1, 0, -x - 32], [0, 1, -y - 24]])
    return cv2.warpAffine(picture_bgr, moved, (128, 96), flags=cv2.INTER_LINEAR)


def scores_of(picture_bgr: Array, seed: int | None = None) -> NDArray[np.float32]:
    """Return scores [3, 24, 32] that follow the picture, with the noise of `seed`."""
    small = cv2.resize(picture_bgr, CELLS[::-1], interpolation=cv2.INTER_AREA)
    scores = small.transpose(2, 0, 1).astype(np.float32) / 255
    if seed is not None:
        scores += np.random.default_rng(seed).normal(0, NOISE, scores.shape)
    return np.ascontiguousarray(scores, np.float32)


@pytest.fixture(scope="module")
def street() -> Array:
    return render_image("street", seed=5, size_hw=(144, 192))[0]


@pytest.mark.parametrize("step_xy", [(0.0, 0.0), (4.0, 0.0), (-2.0, 1.5), (6.0, -3.0)])
def test_noise_goes_while_the_camera_moves(street: Array, step_xy: tuple[float, float]) -> None:
    """Scores fit the picture as it is now, with less of the noise of each frame."""
    stabiliser = Stabiliser()
    for turn in range(5):
        picture = view(street, x=turn * step_xy[0], y=turn * step_xy[1])
        given = scores_of(picture, seed=turn)
        smoothed = stabiliser.smoothed(given, picture, "words")
    middle = (slice(None), slice(4, -4), slice(6, -6))
    wanted = scores_of(picture)
    left = np.abs(smoothed - wanted)[middle].mean() / np.abs(given - wanted)[middle].mean()
    assert left < (0.62 if step_xy == (0.0, 0.0) else 0.75)


def test_a_past_that_did_not_move_along_would_be_worse(street: Array) -> None:
    """Else the test above could pass without any motion found."""
    before, now = view(street), view(street, x=8.0)
    unmoved = 0.85 * scores_of(before) + 0.15 * scores_of(now)
    stabiliser = Stabiliser()
    stabiliser.smoothed(scores_of(before), before, "words")
    smoothed = stabiliser.smoothed(scores_of(now), now, "words")
    middle = (slice(None), slice(4, -4), slice(6, -6))
    error = np.abs(smoothed - scores_of(now))[middle].mean()
    assert error < 0.4 * np.abs(unmoved - scores_of(now))[middle].mean()


def noisy_pair(street: Array, second: Array, subjects: tuple[Any, Any]) -> bool:
    """Return whether the second of two frames took over anything of the first."""
    stabiliser = Stabiliser()
    stabiliser.smoothed(scores_of(street, 0), street, subjects[0])
    given = scores_of(second, 1)
    return not np.array_equal(stabiliser.smoothed(given, second, subjects[1]), given)


def test_a_cut_and_another_subject_begin_anew(street: Array) -> None:
    hall = render_image("hall", seed=1, size_hw=street.shape[:2])[0]
    assert noisy_pair(street, street, ("words", "words"))
    assert not noisy_pair(street, hall, ("words", "words"))
    assert not noisy_pair(street, street, ("words", "other words"))


@pytest.mark.parametrize("times", [0.7, 1.0, 1.4])
def test_another_exposure_is_no_other_picture(street: Array, times: float) -> None:
    before, now = view(street), view(street, x=5.0)
    now = cv2.convertScaleAbs(now, alpha=times)
    flow = np.broadcast_to(np.float32((6.25, 0)), (120, 160, 2))  # 5 of 128 pixels
    assert exposure(grey_of(now), grey_of(before), flow) == pytest.approx(times, rel=0.03)
    stabiliser = Stabiliser()
    stabiliser.smoothed(scores_of(view(street), 0), before, "words")
    given = scores_of(view(street, x=5.0), 1)
    changed = np.abs(stabiliser.smoothed(given, now, "words") - given).max(0) > 1e-6
    assert changed.mean() > 0.75


def test_pictures_without_light_have_no_exposure() -> None:
    dark, flow = np.zeros((120, 160), np.uint8), np.zeros((120, 160, 2), np.float32)
    assert exposure(dark, dark, flow) == 1.0 == exposure(dark + 255, dark, flow)
    assert exposure(dark + 240, dark + 20, flow) == 2.0


def test_other_numbers_of_scores_begin_anew(street: Array) -> None:
    stabiliser = Stabiliser()
    stabiliser.smoothed(scores_of(street, 0), street, "words")
    for shape in ((2, 24, 32), (3, 24, 16), (3, 12, 32)):
        given = np.random.default_rng(0).random(shape, np.float32)
        assert stabiliser.smoothed(given, street, "words") is given
    tall = np.ascontiguousarray(street.transpose(1, 0, 2))
    assert stabiliser.smoothed(given, tall, "words") is given


def test_the_number_of_threads_changes_nothing(street: Array) -> None:
    def smoothed(threads: int) -> Array:
        kept = cv2.getNumThreads()
        cv2.setNumThreads(threads)
        stabiliser = Stabiliser()
        for turn in range(3):
            picture = view(street, x=5.0 * turn, y=2.0 * turn)
            found = stabiliser.smoothed(scores_of(picture, turn), picture, "words")
        cv2.setNumThreads(kept)
        return found.copy()

    np.testing.assert_array_equal(smoothed(1), smoothed(4))


@pytest.mark.parametrize("size_hw", [(1, 1), (3, 400), (400, 3), (33, 57), (720, 1280)])
def test_pictures_of_any_size_are_looked_at(size_hw: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)
    assert max(grey_of(picture).shape) == 160 and min(grey_of(picture).shape) >= 32
    stabiliser = Stabiliser()
    scores = np.full((2, 3, 4), 0.5, np.float32)
    stabiliser.smoothed(scores, picture, None)
    np.testing.assert_allclose(stabiliser.smoothed(scores + 0.1, picture, None), 0.515, atol=1e-6)


class FlickeringEngine(ConstantEngine):
    """Prefers the first and the second word in turns, by little."""

    def __init__(self) -> None:
        super().__init__(np.zeros((1, 2, 4, 4), np.float32))
        self.runs = 0
        self.broken = False

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        scores = np.full((1, len(inputs["valid"]), 4, 4), 0.6, np.float32)
        scores[0, self.runs % 2] = np.nan if self.broken else 0.65
        self.runs += 1
        return {"scores": scores}


def flickering(*, stable: bool) -> Segmenter:
    thresholds = Thresholds({}, 0.5)
    engine = FlickeringEngine()
    return Segmenter(engine, encode, classes="a,b", thresholds=thresholds, threads=1, stable=stable)


def first_ids(segmenter: Any, frames: list[Array]) -> list[int]:
    return [int(segmenter.segment(frame).label_map[0, 0]) for frame in frames]


FRAME = np.full((32, 48, 3), 90, np.uint8)


def test_labels_flicker_unless_they_are_to_be_stable() -> None:
    with flickering(stable=False) as segmenter:
        assert first_ids(segmenter, [FRAME] * 4) == [0, 1, 0, 1]
    with flickering(stable=True) as segmenter:
        assert first_ids(segmenter, [FRAME] * 4) == [0, 0, 0, 0]


def test_a_frame_begun_early_follows_the_one_before() -> None:
    with flickering(stable=True) as segmenter:
        pending = [segmenter.submit(FRAME) for _ in range(3)]
        assert [int(one.result().label_map[0, 0]) for one in pending] == [0, 0, 0]


@pytest.mark.parametrize("words", ["a,b", "a@0.3,b", "b,a"])
def test_other_words_and_thresholds_begin_anew(words: str) -> None:
    with flickering(stable=True) as segmenter:
        segmenter.segment(FRAME)
        segmenter.set_classes(words)
        result = segmenter.segment(FRAME)
        # What this frame's own scores prefer, in spite of the frame before.
        assert result.vocabulary_version == 2
        assert result.classes[result.label_map[0, 0]] == words.replace("@0.3", "").split(",")[1]


def test_another_size_of_frames_begins_anew() -> None:
    with flickering(stable=True) as segmenter:
        assert first_ids(segmenter, [FRAME, FRAME[:, :40].copy(), FRAME]) == [0, 1, 0]


def test_every_camera_has_a_past_of_its_own() -> None:
    with flickering(stable=True) as segmenter:
        views = [segmenter.share("a,b"), segmenter.share("a,b")]
        found = [first_ids(view, [FRAME]) for _ in range(3) for view in views]
    # The engine flickers between the cameras, each of which stays with its first label.
    assert found == [[0], [1]] * 3


def test_scores_that_are_no_numbers_are_forgotten() -> None:
    engine = FlickeringEngine()
    thresholds = Thresholds({}, 0.5)
    with Segmenter(
        engine, encode, classes="a,b", thresholds=thresholds, threads=1, stable=True
    ) as segmenter:
        assert first_ids(segmenter, [FRAME]) == [0]
        engine.broken = True
        with pytest.raises(EngineError, match="slot 1 has NaN at row 0, column 0"):
            segmenter.segment(FRAME)
        engine.broken, engine.runs = False, 1
        assert first_ids(segmenter, [FRAME, FRAME]) == [1, 1]
