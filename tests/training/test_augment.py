"""Augmentation keeps image and label together, and each recipe does what it says."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.training.augment import (
    AugmentSettings,
    Window,
    augment,
    crop_resize,
    darkened,
    jitter_colour,
    resized_hw,
    ssd_colour,
)
from dedos_deploy.training.settings import settings_for
from dedos_deploy.training.targets import IGNORE

PLAIN = AugmentSettings(brightness=0, contrast=0, saturation=0, hue=0)


@pytest.mark.parametrize("seed", range(12))
def test_image_and_label_move_together(seed: int) -> None:
    # The image carries its own label in its grey levels, so any shift between them shows.
    blocks = np.random.default_rng(seed).integers(0, 5, (5, 7))
    labels = blocks.repeat(16, 0).repeat(16, 1).astype(np.int64)
    image = np.repeat((labels * 50 + 20).astype(np.uint8)[..., None], 3, axis=2)
    moved, ids = augment(
        image, labels, (48, 64), PLAIN, np.random.default_rng(seed), outside=IGNORE
    )
    assert moved.shape == (48, 64, 3) and moved.dtype == np.uint8
    # A pixel whose neighbours have its label lies inside a block and must have its grey level;
    # only pixels on a border may be blends.
    windows = np.lib.stride_tricks.sliding_window_view(ids, (3, 3))
    inside = (windows == windows[..., 1:2, 1:2]).all((2, 3)) & (windows[..., 1, 1] != IGNORE)
    wrong = np.abs(moved[1:-1, 1:-1, 0].astype(int) - (ids[1:-1, 1:-1] * 50 + 20)) > 12
    assert inside.sum() > 200
    assert not (wrong & inside).any()


def test_scale_one_without_stretch_is_the_deployed_resize() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    settings = replace(PLAIN, scale=(1.0, 1.0), aspect=1.0, flip=0.0)
    labels = np.zeros((60, 80), np.int64)
    moved, _ = augment(image, labels, (120, 160), settings, np.random.default_rng(0), outside=-1)
    assert np.array_equal(moved, cv2.resize(image, (160, 120), interpolation=cv2.INTER_LINEAR))


def test_the_outside_of_a_small_image_is_ignored() -> None:
    settings = replace(PLAIN, scale=(0.5, 0.5), aspect=1.0)
    labels = np.zeros((40, 40), np.int64)
    image = np.zeros((40, 40, 3), np.uint8)
    _, ids = augment(image, labels, (40, 40), settings, np.random.default_rng(0), outside=IGNORE)
    assert (ids == IGNORE).mean() == pytest.approx(0.75)


def test_a_mirror_image_mirrors_its_labels() -> None:
    labels = np.tile(np.arange(16), (16, 1)).astype(np.int64)
    image = np.repeat((labels * 10).astype(np.uint8)[..., None], 3, axis=2)
    settings = replace(PLAIN, scale=(1.0, 1.0), aspect=1.0, flip=1.0)
    moved, ids = augment(image, labels, (16, 16), settings, np.random.default_rng(0), outside=-1)
    assert np.array_equal(ids, labels[:, ::-1])
    assert np.array_equal(moved[..., 0], labels[:, ::-1] * 10)


def test_colour_changes_stay_within_their_range() -> None:
    grey = np.full((8, 8, 3), 120, np.uint8)
    seen = [
        jitter_colour(grey, replace(PLAIN, brightness=0.25), np.random.default_rng(s)).mean()
        for s in range(40)
    ]
    assert 88 <= min(seen) < 105 and 135 < max(seen) <= 152
    assert np.array_equal(jitter_colour(grey, PLAIN, np.random.default_rng(0)), grey)


def test_a_stop_less_is_half_the_light() -> None:
    levels = np.array([[[255, 188, 10]]], np.uint8)
    # sRGB by hand: 255 is 1, 188 is 0.503 of the light, and 10 lies where levels are proportional to it.
    assert darkened(levels, 1.0).tolist() == [[[188, 137, 5]]]
    assert darkened(levels, 3.0)[0, 0, 0] == 99
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3)
    assert np.array_equal(darkened(every, 0.0), every)


def test_darker_views_take_up_to_so_many_stops_and_fewer_ones_more_often() -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    darker = replace(PLAIN, darken=3.0)
    random = np.random.default_rng(0)
    seen = np.array([jitter_colour(white, darker, random)[0, 0, 0] for _ in range(2000)])
    assert 99 <= seen.min() < 110 and seen.max() > 250
    # A third of all draws lie below the 0.55 stops that leave 215, a half below the 0.88 that leave 195.
    assert np.median(seen) == pytest.approx(195, abs=4)
    assert np.quantile(seen, 2 / 3) == pytest.approx(215, abs=4)


def test_a_shrunk_label_takes_the_middle_of_each_cell() -> None:
    whole = Window(0, 9, 0, 3)
    labels = np.tile(np.arange(9), (9, 1)).astype(np.int64)
    image = np.zeros((9, 9, 3), np.uint8)
    _, ids = crop_resize(image, labels, (3, 3), (whole, whole), IGNORE)
    assert ids[0].tolist() == [1, 4, 7]


PUBLISHED = [int(x * 0.1 * 640) for x in range(5, 21)]
"""MIN_SIZE_TRAIN of Mask2Former at 640, from its configuration files."""

M2F = AugmentSettings(recipe="mask2former")


def generators(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_the_short_side_takes_the_published_sizes() -> None:
    sizes = [resized_hw((480, 640), (640, 640), M2F, random) for random in generators(400)]
    assert sorted({height for height, _ in sizes}) == PUBLISHED
    assert all(abs(width - height * 640 / 480) <= 0.5 for height, width in sizes)


def test_the_long_side_stays_within_four_times_the_crop() -> None:
    sizes = [resized_hw((100, 400), (640, 640), M2F, random) for random in generators(100)]
    assert max(width for _, width in sizes) == 2560
    assert max(height for height, _ in sizes) == 640


def blocks(side: int = 16) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return an image whose grey levels are its labels, and the labels."""
    labels = np.random.default_rng(1).integers(0, 5, (6, 9)).repeat(side, 0).repeat(side, 1)
    return np.repeat((labels * 50 + 20).astype(np.uint8)[..., None], 3, axis=2), labels


def test_a_crop_and_its_labels_are_cut_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dedos_deploy.training.augment.ssd_colour", lambda image_bgr, random: image_bgr
    )
    image, labels = blocks()
    padded = 0
    for random in generators(24):
        moved, ids = augment(image, labels, (64, 80), M2F, random, outside=IGNORE)
        assert moved.shape == (64, 80, 3) and ids.shape == (64, 80)
        windows = np.lib.stride_tricks.sliding_window_view(ids, (3, 3))
        inside = (windows == windows[..., 1:2, 1:2]).all((2, 3))
        want = np.where(ids == IGNORE, 128, ids * 50 + 20)[1:-1, 1:-1]
        wrong = np.abs(moved[1:-1, 1:-1, 0].astype(int) - want) > 12
        assert inside.sum() > 500 and not (wrong & inside).any()
        if (ids == IGNORE).any():
            # Padding lies right and below.
            padded += 1
            rows, columns = np.nonzero(ids != IGNORE)
            assert (rows.min(), columns.min()) == (0, 0)
            assert (ids[: rows.max() + 1, : columns.max() + 1] != IGNORE).all()
    assert 2 < padded < 22


def test_squashed_crops_are_of_what_deployment_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dedos_deploy.training.augment.ssd_colour", lambda image_bgr, random: image_bgr
    )
    squashed = replace(M2F, recipe="mask2former-squashed", flip=0.0)
    image = np.random.default_rng(0).integers(0, 256, (90, 160, 3)).astype(np.uint8)
    labels = np.zeros((90, 160), np.int64)
    deployed = np.empty((64, 80, 3), np.uint8)
    resize_frame(image, deployed)
    once = replace(squashed, scale=(1.0, 1.0))
    moved, _ = augment(image, labels, (64, 80), once, np.random.default_rng(0), outside=IGNORE)
    assert np.array_equal(moved, deployed)
    sizes = {resized_hw((90, 160), (64, 80), squashed, random) for random in generators(200)}
    assert sizes == {(int(t * 0.1 * 64), int(t * 0.1 * 80)) for t in range(5, 21)}


def test_scale_one_without_flip_is_the_resized_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dedos_deploy.training.augment.ssd_colour", lambda image_bgr, random: image_bgr
    )
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    settings = replace(M2F, scale=(1.0, 1.0), flip=0.0)
    labels = np.zeros((40, 60), np.int64)
    moved, ids = augment(image, labels, (60, 90), settings, np.random.default_rng(0), outside=-1)
    assert np.array_equal(moved, cv2.resize(image, (90, 60), interpolation=cv2.INTER_LINEAR))
    assert (ids == 0).all()
    settings = replace(settings, flip=1.0)
    mirrored, _ = augment(image, labels, (60, 90), settings, np.random.default_rng(0), outside=-1)
    assert np.array_equal(mirrored, moved[:, ::-1])


def test_no_class_fills_a_crop_beyond_its_area() -> None:
    labels = np.zeros((64, 64), np.int64)
    labels[:, 32:] = 1
    labels[48:, :] = IGNORE
    image = np.zeros((64, 64, 3), np.uint8)
    settings = replace(M2F, scale=(2.0, 2.0), category_area=0.75)

    def largest(settings: AugmentSettings, random: np.random.Generator) -> float:
        _, ids = augment(image, labels, (32, 32), settings, random, outside=IGNORE)
        counts = np.unique(ids[ids >= 0], return_counts=True)[1]
        return float(counts.max() / counts.sum()) if len(counts) else 1.0

    limited = [largest(replace(settings, scale=(1.0, 1.0)), random) for random in generators(40)]
    free = [largest(replace(M2F, scale=(1.0, 1.0)), random) for random in generators(40)]
    # At scale 1 every crop is the whole picture; at 2 it is a quarter that may hold one class.
    assert limited == free
    zoomed = [largest(settings, random) for random in generators(40)]
    free = [largest(replace(settings, category_area=1.0), random) for random in generators(40)]
    assert np.mean(np.array(zoomed) < 0.75) > 0.9 > 0.7 > np.mean(np.array(free) < 0.75)


def test_colours_of_ssd_stay_in_their_ranges_and_half_are_kept() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    random = np.random.default_rng(0)
    levels = np.array([ssd_colour(grey, random)[0, 0] for _ in range(2000)])
    # A grey pixel has no hue and no saturation: only brightness and contrast move it, and each is
    # left out half of the time.
    assert (levels == levels[:, :1]).all()
    assert levels.min() >= (100 - 32) * 0.5 - 1 and levels.max() <= (100 + 32) * 1.5
    assert levels.min() < 40 and levels.max() > 185
    assert 0.23 < np.mean(levels[:, 0] == 100) < 0.29


def test_hue_turns_by_at_most_36_degrees() -> None:
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 2] = 200
    turned = [ssd_colour(red, random) for random in generators(300)]
    hues = np.array([int(cv2.cvtColor(pixel, cv2.COLOR_BGR2HSV)[0, 0, 0]) for pixel in turned])
    around = np.where(hues > 90, hues - 180, hues)
    assert np.abs(around).max() <= 20 and around.min() < -12 and around.max() > 12


def test_unknown_recipes_and_ranges_are_refused() -> None:
    with pytest.raises(BadInputError, match="did you mean 'mask2former'"):
        AugmentSettings(recipe="mask2fromer")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="smaller one first"):
        AugmentSettings(scale=(2.0, 0.5))
    for stops in (-1.0, 8.5, float("nan")):
        with pytest.raises(BadInputError, match=r"darken is .* lie in \[0, 8\]"):
            AugmentSettings(darken=stops)


def test_each_preset_has_its_recipe() -> None:
    recipes = {
        preset: settings_for(preset, ("data",)).augmentation.recipe
        for preset in ("paper-l", "paper-b", "edge-l", "edge-b", "nano")
    }
    assert recipes.pop("nano") == "deployed"
    assert set(recipes.values()) == {"mask2former-squashed"}


def test_the_recipe_can_be_chosen_beside_what_the_preset_sets() -> None:
    nano = settings_for("nano", ("data",))
    chosen = settings_for("nano", ("data",), recipe="mask2former")
    assert chosen.augmentation == replace(nano.augmentation, recipe="mask2former")
    assert settings_for("edge-b", ("data",), recipe="deployed").augmentation == AugmentSettings()


def test_darker_views_can_be_chosen_where_the_recipe_has_them() -> None:
    nano = settings_for("nano", ("data",))
    chosen = settings_for("nano", ("data",), darken=3.0)
    assert chosen.augmentation == replace(nano.augmentation, darken=3.0)
    assert (
        settings_for("edge-b", ("data",), recipe="deployed", darken=3.0).augmentation.darken == 3.0
    )
    with pytest.raises(
        BadInputError, match="darken 3.0 has no effect: recipe mask2former-squashed"
    ):
        settings_for("edge-b", ("data",), darken=3.0)
