"""Through which windows a frame is looked at, and what of each counts where: properties of plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.tiling import Plan, Tiling, Window
from dedos_deploy.tiles import MOST_WINDOWS, Grid, Stride, Tiles, parse_tiles

NANO = (288, 384)
FULL_HD = (1080, 1920)
TILINGS = [
    Tiling("auto"),
    Tiling(Grid(2, 3)),
    Tiling(Grid(5, 1)),
    Tiling(Grid(1, 4), whole=False),
    Tiling(Stride(40)),
    Tiling(Stride(3)),
    Tiling(scales=(1.0, 1.25, 1.75), flips=True),
    Tiling(Grid(2, 2), scales=(1.0, 1.5), flips=True),
    Tiling(flips=True, whole=False),
]
FRAMES = [
    (1, 1),
    (2, 90),
    (33, 17),
    (64, 80),
    (65, 80),
    (100, 75),
    (107, 260),
    (240, 53),
    (360, 640),
]
NETWORKS = [(64, 80), (32, 96), (56, 56)]


def plans() -> Iterator[Plan]:
    """Yield plans of many kinds of frames; those of more windows than are allowed are left out."""
    for tiling, frame_hw, network_hw in product(TILINGS, FRAMES, NETWORKS):
        if not (tiling.tiles == Stride(3) and max(frame_hw) > 90):
            try:
                yield tiling.plan(frame_hw, network_hw)
            except BadInputError as error:
                assert "a stride longer than" in str(error)


def cells_of(window: Window, cells_hw: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return where the centres of a window's score cells lie in the frame, in pixels: y [h], x [w]."""
    top, left, bottom, right = window.box
    y = top + (np.arange(cells_hw[0]) + 0.5) * (bottom - top) / cells_hw[0]
    x = left + (np.arange(cells_hw[1]) + 0.5) * (right - left) / cells_hw[1]
    return y, x[::-1] if window.flipped else x


Scene = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


def blended(plan: Plan, scene: Scene, network_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Return the score map of a network that sees `scene`, scores [K, ...] at y [h, 1], x [w]."""
    cells_hw = network_hw[0] // 4, network_hw[1] // 4
    total = np.zeros((len(scene(np.zeros((1, 1)), np.zeros(1))), *plan.score_hw), np.float32)
    for window in plan.windows:
        y, x = cells_of(window, cells_hw)
        scores = np.ascontiguousarray(scene(y[:, None], x), np.float32)
        window.blend(scores, total, threads=1)
    return total


def test_weights_sum_to_one_everywhere() -> None:
    count = 0
    for plan in plans():
        total = np.sum([window.weights.astype(float) for window in plan.windows], axis=0)
        assert total.shape == plan.score_hw
        np.testing.assert_allclose(total, 1.0, atol=2e-6)
        assert all(window.weights.min() >= 0.0 for window in plan.windows)
        count += len(plan.windows) > 1
    assert count > 130


def test_windows_lie_in_the_frame_and_are_looked_at_once() -> None:
    for plan in plans():
        height, width = plan.frame_hw
        seen = [(window.box, window.flipped) for window in plan.windows]
        assert len(set(seen)) == len(seen) <= 4 * MOST_WINDOWS
        for top, left, bottom, right in (box for box, _ in seen):
            assert 0 <= top < bottom <= height and 0 <= left < right <= width


def test_a_constant_score_map_stays_constant() -> None:
    values = np.array([0.0, 0.25, 0.7, 1.0])
    for network_hw in NETWORKS:
        for frame_hw in FRAMES[:-1]:
            plan = Tiling(Grid(2, 3), flips=True).plan(frame_hw, network_hw)
            found = blended(
                plan,
                lambda y, x: np.broadcast_to(values[:, None, None], (4, *(y + x).shape)),
                network_hw,
            )
            np.testing.assert_allclose(
                found, np.broadcast_to(values[:, None, None], found.shape), atol=1e-6
            )


@pytest.mark.parametrize("tiling", TILINGS, ids=str)
def test_what_windows_agree_on_is_where_it_is_in_the_frame(tiling: Tiling) -> None:
    """Of scores that rise evenly over the frame, every window gives its part, mirrored or not."""
    frame_hw, network_hw = (107, 260), (64, 80)
    if tiling.tiles == Stride(3):
        frame_hw = (80, 90)
    plan = tiling.plan(frame_hw, network_hw)

    def scene(y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        return np.stack([y / frame_hw[0] + 0 * x, x / frame_hw[1] + 0 * y])

    found = blended(plan, scene, network_hw)
    y, x = ((np.arange(count) + 0.5) / count for count in plan.score_hw)
    wanted = np.stack(np.broadcast_arrays(y[:, None], x))
    # Outside of its outermost cells' centres a window has no slope to go on with.
    goes_on = np.ones(plan.score_hw, bool)
    for window in plan.windows:
        inside = [
            (at > 0.0) & (at < most) for at, most in ((window.rows, 15.0), (window.columns, 19.0))
        ]
        goes_on &= (window.weights == 0.0) | np.logical_and.outer(*inside)
    assert goes_on.mean() > 0.2
    np.testing.assert_allclose(found[:, goes_on], wanted[:, goes_on], atol=2e-6)


def test_no_seam_is_left_where_windows_disagree() -> None:
    """Neighbouring cells differ by no more than a window's fading, whatever each window says."""
    plan = Tiling(Grid(3, 4)).plan(FULL_HD, NANO)
    rng = np.random.default_rng(0)
    total = np.zeros((1, *plan.score_hw), np.float32)
    for window in plan.windows:
        value = np.float32(rng.integers(0, 2))
        window.blend(np.full((1, 72, 96), value, np.float32), total, threads=1)
    # A quarter of a window of 72x96 cells is what two share, so along each axis one fades into the
    # next within 18 and 24 cells, at half of what is said: the rest is the whole's.
    for axis, cells in ((1, 18), (2, 24)):
        steepest = np.abs(np.diff(total, axis=axis)).max()
        assert 0.1 / cells < steepest <= 0.5 * 1.05 / cells
    assert np.ptp(total) > 0.4


def test_a_longer_frame_has_the_same_windows_and_one_more() -> None:
    network_hw, stride = (64, 80), 40
    short = Tiling(Stride(stride), whole=False).plan((64, 80 + 3 * stride), network_hw)
    long = Tiling(Stride(stride), whole=False).plan((64, 80 + 4 * stride), network_hw)
    moved = [(0, left + stride, 64, right + stride) for _, left, _, right in boxes(short)]
    assert boxes(long) == [(0, 0, 64, 80), *moved]
    cells = stride // 4
    for window, same in zip(short.windows[1:], long.windows[2:], strict=True):
        np.testing.assert_array_equal(window.weights, same.weights[:, cells:])
    # So what is one stride further on in the picture is one stride further on in the scores.
    rng = np.random.default_rng(0)
    said = rng.random((4, 3, 16, 20), np.float32)
    before, after = (np.zeros((3, *plan.score_hw), np.float32) for plan in (short, long))
    for window, scores in zip(short.windows, said, strict=True):
        window.blend(scores, before, threads=1)
    for window, scores in zip(
        long.windows, [rng.random((3, 16, 20), np.float32), *said], strict=True
    ):
        window.blend(scores, after, threads=1)
    # Where only the new window and the first one meet, they differ.
    np.testing.assert_array_equal(before[:, :, 20:], after[:, :, 20 + cells :])


def boxes(plan: Plan) -> list[tuple[int, int, int, int]]:
    return [window.box for window in plan.windows]


@pytest.mark.parametrize(
    ("tiles", "frame_hw"),
    [
        ("off", FULL_HD),
        ("auto", NANO),
        ("auto", (100, 380)),  # no larger, whatever its shape
        ("auto", (480, 640)),
        ("auto", (360, 640)),  # 16:9 in 4:3 is about its shape
        ("auto", (576, 768)),  # twice its size
        (Grid(1, 1), FULL_HD),
        (Grid(3, 1), FULL_HD),  # one column of 4:3 is wider than the frame is high
        (Stride(96), (200, 384)),
    ],
)
def test_one_window_that_covers_the_frame_is_the_frame(
    tiles: Tiles, frame_hw: tuple[int, int]
) -> None:
    plan = Tiling(tiles).plan(frame_hw, NANO)
    assert plan.is_whole and boxes(plan) == [(0, 0, *frame_hw)] and plan.score_hw == (72, 96)
    (window,) = plan.windows
    np.testing.assert_array_equal(window.weights, np.ones((72, 96), np.float32))
    scores = np.random.default_rng(0).random((2, 72, 96), np.float32)
    total = np.zeros_like(scores)
    window.blend(scores, total, threads=1)
    np.testing.assert_allclose(total, scores, atol=1e-6)


@pytest.mark.parametrize(
    ("tiles", "frame_hw", "rows", "columns", "side"),
    [
        ("auto", FULL_HD, 2, 3, 618),
        ("auto", (720, 1280), 2, 2, 549),
        ("auto", (1200, 800), 3, 2, 480),
        ("auto", (300, 3000), 1, 7, 300),
        (Grid(2, 2), (720, 960), 2, 2, 412),
        (Grid(2, 3), FULL_HD, 2, 3, 618),
        (Stride(192), FULL_HD, 6, 9, 288),
        (Stride(216), (400, 300), 3, 1, 225),  # narrower than the network: windows as wide as it is
    ],
)
def test_windows_are_as_many_as_it_takes(
    tiles: Tiles, frame_hw: tuple[int, int], rows: int, columns: int, side: int
) -> None:
    plan = Tiling(tiles).plan(frame_hw, NANO)
    whole, *windows = plan.windows
    assert whole.box == (0, 0, *frame_hw) and whole.weights.max() == pytest.approx(0.5)
    assert len({top for top, *_ in boxes(plan)}) == rows
    assert len({left for _, left, *_ in boxes(plan)}) == columns
    assert len(windows) == rows * columns
    heights = {bottom - top for top, _, bottom, _ in boxes(plan)[1:]}
    assert heights == {side}
    assert plan.score_hw[0] == round(frame_hw[0] * 72 / side)


def test_windows_keep_the_networks_aspect_and_share_a_quarter() -> None:
    for tiles in (Grid(2, 3), Grid(3, 3), Grid(4, 2), Stride(100), "auto"):
        plan = Tiling(tiles).plan(FULL_HD, NANO)
        for top, left, bottom, right in boxes(plan)[1:]:
            assert (right - left) / (bottom - top) == pytest.approx(384 / 288, rel=0.005)
        for axis, side in ((0, 2), (1, 3)):
            starts = sorted({box[axis] for box in boxes(plan)[1:]})
            size = boxes(plan)[1][side] - boxes(plan)[1][axis]
            assert max(np.diff(starts)) <= 0.751 * size


def test_a_frame_that_is_too_long_for_windows_of_the_networks_aspect_bounds_them() -> None:
    plan = Tiling(Grid(1, 2)).plan((300, 3000), NANO)
    assert boxes(plan) == [(0, 0, 300, 3000), (0, 0, 300, 1715), (0, 1285, 300, 3000)]


def test_every_look_has_the_same_say() -> None:
    plan = Tiling(Grid(2, 2), scales=(1.0, 2.0), flips=True).plan((576, 768), NANO)
    total = dict.fromkeys(product((576, 330, 165), (False, True)), 0.0)
    for window in plan.windows:
        total[window.box[2] - window.box[0], window.flipped] += window.weights[30, 40]
    assert total == pytest.approx(dict.fromkeys(total, 1 / 6))


def test_scales_show_the_frame_larger() -> None:
    plan = Tiling(scales=(1.0, 1.5)).plan((288, 384), NANO)
    assert plan.score_hw == (108, 144)
    assert boxes(plan)[1:] == [
        (top, left, top + 192, left + 256) for top in (0, 96) for left in (0, 128)
    ]


@pytest.mark.parametrize("scales", [(), (0.5,), (1.0, 9.0), (float("nan"),)])
def test_scales_that_no_input_of_one_size_has_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(
        BadInputError, match=r"scales lie in \[1, 8\], not .*: a graph has one input"
    ):
        Tiling(scales=scales)


@pytest.mark.parametrize(
    ("scales", "named"),
    [
        ((1.0, 1.001), "1 and 1.001"),
        ((1.04,), "1 and 1.04"),
        ((2.0, 1.0, 2.05), "2 and 2.05"),
    ],
)
def test_scales_that_show_nearly_the_same_are_refused(
    scales: tuple[float, ...], named: str
) -> None:
    with pytest.raises(BadInputError, match=f"scales {named} show nearly the same.*5 % apart"):
        Tiling(scales=scales)
    Tiling(scales=(1.0, 1.05, 1.1025))


def test_what_shows_nothing_of_its_own_is_told() -> None:
    small, wide = (200, 300), (300, 3000)
    assert Tiling("auto").idle(small, NANO) == Tiling("auto").idle(NANO, NANO) == ("tiles auto",)
    assert Tiling("auto").idle(FULL_HD, NANO) == ()
    assert Tiling(Grid(1, 1)).idle(FULL_HD, NANO) == ("tiles 1x1",)
    assert Tiling(Grid(3, 1)).idle(wide, NANO) == ("tiles 3x1",)
    assert Tiling(Stride(40)).idle(small, NANO) == ("tiles 40",)
    assert Tiling(scales=(1.0, 1.5), flips=True).idle(small, NANO) == ()
    # In whole pixels windows of a frame of a few come out as each other, or as the frame.
    assert Tiling(scales=(1.0, 1.05)).idle((8, 9), NANO) == ("scale 1.05",)
    assert Tiling(scales=(1.05,)).idle((8, 9), NANO) == ("scale 1.05",)
    assert Tiling(scales=(1.0, 6.0, 7.0, 8.0)).idle((3, 3), NANO) == ("scale 7", "scale 8")


@pytest.mark.parametrize("frame_hw", [*FRAMES, (8, 9), (3, 3)])
@pytest.mark.parametrize("scales", [(1.0, 1.05), (1.0, 1.25, 1.5), (1.0, 6.0, 7.0, 8.0)], ids=str)
def test_a_scale_is_idle_where_leaving_it_out_changes_no_window(
    frame_hw: tuple[int, int], scales: tuple[float, ...]
) -> None:
    tiling, network_hw = Tiling(scales=scales), (64, 80)
    for at in range(1, len(scales)):
        with_it, without = (replace(tiling, scales=scales[:end]) for end in (at + 1, at))
        same = boxes(with_it.plan(frame_hw, network_hw)) == boxes(
            without.plan(frame_hw, network_hw)
        )
        assert same == (f"scale {scales[at]:g}" in tiling.idle(frame_hw, network_hw))


def test_a_stride_too_long_for_the_network_is_refused() -> None:
    with pytest.raises(
        BadInputError, match=r"tiles 217 are a stride longer than 216 pixels.*288x384"
    ):
        Tiling(Stride(217)).plan(FULL_HD, NANO)
    Tiling(Stride(216)).plan(FULL_HD, NANO)


def test_more_windows_than_anybody_waits_for_are_refused() -> None:
    message = r"tiles 8 make 19300 windows of a frame of 1080x1920, more than 256; give a longer"
    with pytest.raises(BadInputError, match=message):
        Tiling(Stride(8)).plan(FULL_HD, NANO)
    message = r"tiles 4x4 at scale 8 make 910 windows.*; give a smaller scale, or fewer tiles"
    with pytest.raises(BadInputError, match=message):
        Tiling(Grid(4, 4), scales=(1.0, 8.0)).plan(FULL_HD, NANO)
    with pytest.raises(BadInputError, match="tiles 17x16 are no grid"):
        parse_tiles("17x16")


@pytest.mark.parametrize("tiles", ["2x3", "aut", 192, None])
def test_tiles_that_nobody_read_are_refused(tiles: Any) -> None:
    with pytest.raises(BadInputError, match="are no tiles; give 'off', 'auto', a Grid, a Stride"):
        Tiling(tiles).plan(FULL_HD, NANO)


@pytest.mark.parametrize(
    ("text", "tiles"),
    [
        ("off", "off"),
        (" AUTO ", "auto"),
        ("2x3", Grid(2, 3)),
        ("02X03", Grid(2, 3)),
        ("96", Stride(96)),
    ],
)
def test_tiles_are_read_as_they_are_written(text: str, tiles: Tiles) -> None:
    assert parse_tiles(text) == tiles
    assert parse_tiles(str(tiles)) == tiles


@pytest.mark.parametrize("text", ["", "2*3", "x3", "2x", "-4", "1.5", "2x3x4", "٣x٢", "0x2", "0"])
def test_what_are_no_tiles_is_named(text: str) -> None:
    with pytest.raises(BadInputError, match="are no tiles|are no grid|at least 1 pixel"):
        parse_tiles(text)


def test_a_slip_of_the_pen_is_told_the_nearest_word() -> None:
    with pytest.raises(BadInputError, match="'atuo' are no tiles, did you mean 'auto'"):
        parse_tiles("atuo")
