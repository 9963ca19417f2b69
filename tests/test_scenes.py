"""Procedural scenes: the same seed gives the same picture, labels fit it, all classes appear."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dedos_deploy import scenes
from dedos_deploy.errors import BadInputError
from dedos_deploy.scenes._render import _drawn
from dedos_deploy.scenes.billboard import Billboard
from dedos_deploy.scenes.canvas import Camera, Canvas, Light
from dedos_deploy.scenes.solids import Frame, draw_box, draw_mesh, mesh_from_faces
from dedos_deploy.scenes.texture import phase

_LIGHT = Light(1.0, 1.0, 1.0, 1.0, (255.0, 255.0, 255.0), 1e9, 0.5, 0.0, 0.0)


def _camera(**changes: float) -> Camera:
    settings = {"focal_px": 64.0, "horizon_px": 32.0, "s": 0.0, "height": 1.5, "z": 0.0}
    return Camera((64, 96), **(settings | changes))


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_the_same_seed_gives_the_same_picture_and_another_seed_another(kind: str) -> None:
    first = scenes.render_image(kind, seed=5, size_hw=(60, 80))
    again = scenes.render_image(kind, seed=5, size_hw=(60, 80))
    other = scenes.render_image(kind, seed=6, size_hw=(60, 80))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert (first[0] != other[0]).mean() > 0.5


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_every_class_appears_and_every_pixel_has_one(kind: str) -> None:
    names = scenes.class_names(kind)
    assert len(set(names)) == len(names)
    seen: set[int] = set()
    for seed in range(400):
        image, labels = scenes.render_image(kind, seed=seed, size_hw=(72, 96))
        assert image.shape == (72, 96, 3) and image.dtype == np.uint8
        assert labels.shape == (72, 96) and labels.dtype == np.uint8
        assert labels.max() < len(names)
        seen |= set(np.unique(labels).tolist())
        if len(seen) == len(names):
            return
    missing = [name for index, name in enumerate(names) if index not in seen]
    assert not missing


def test_the_two_kinds_name_more_than_25_things() -> None:
    words = {word for kind in scenes.KINDS for word in scenes.class_names(kind)}
    assert len(words) >= 25
    assert {"road", "car", "person", "tree", "floor", "wall", "door", "chair"} <= words


@pytest.mark.parametrize("size_hw", [(16, 16), (33, 51), (600, 800)])
def test_odd_small_and_large_sizes_are_filled(size_hw: tuple[int, int]) -> None:
    for kind in scenes.KINDS:
        image, labels = scenes.render_image(kind, seed=3, size_hw=size_hw)
        assert image.shape[:2] == labels.shape == size_hw
        assert image.std() > 5


def test_picture_and_labels_agree_on_what_is_where() -> None:
    """Sky and ceiling are above, road and floor below, and regions differ in colour."""
    for kind, above, below in (("street", "sky", "road"), ("hall", "ceiling", "floor")):
        names = scenes.class_names(kind)
        rows: dict[str, list[float]] = {above: [], below: []}
        for seed in range(30):
            _, labels = scenes.render_image(kind, seed=seed, size_hw=(60, 80))
            for name, found in rows.items():
                found += np.nonzero(labels == names.index(name))[0].tolist()
        assert np.mean(rows[above]) < 20 < 35 < np.mean(rows[below])


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_a_video_moves_smoothly_through_one_scene(kind: str) -> None:
    frames = list(scenes.render_video(kind, frames=12, size_hw=(60, 80), seed=2))
    assert len(frames) == 12
    steps = [(a[1] != b[1]).mean() for a, b in itertools.pairwise(frames)]
    assert 0 < max(steps) < 0.25
    assert (frames[0][1] != frames[-1][1]).mean() > np.median(steps)
    again = list(scenes.render_video(kind, frames=12, size_hw=(60, 80), seed=2))
    assert np.array_equal(frames[-1][0], again[-1][0])


def test_bad_requests_are_refused_with_advice() -> None:
    with pytest.raises(BadInputError, match="kinds: street, hall"):
        scenes.render_image("beach", seed=0, size_hw=(64, 64))
    with pytest.raises(BadInputError, match="at least 16 pixels"):
        scenes.render_image("hall", seed=0, size_hw=(8, 64))
    for samples in (0, 2):
        with pytest.raises(BadInputError, match=f"odd number from 1 on, not {samples}"):
            scenes.render_image("hall", seed=0, size_hw=(16, 16), samples=samples)
    with pytest.raises(BadInputError, match="must not be negative"):
        scenes.render_video("hall", frames=-1, size_hw=(64, 64), seed=0)


@pytest.mark.parametrize("kind", scenes.KINDS)
def test_more_samples_see_the_same_scene_sharper(kind: str) -> None:
    small, large = (96, 160), (288, 480)
    image, labels = scenes.render_image(kind, seed=2, size_hw=small, samples=3)
    _, fine = scenes.render_image(kind, seed=2, size_hw=large)
    assert image.shape == (*small, 3) and (labels == fine[1::3, 1::3]).mean() > 0.98
    once, _ = scenes.render_image(kind, seed=2, size_hw=small)
    assert np.abs(image.astype(float) - once).mean() < 12
    again, _ = scenes.render_image(kind, seed=2, size_hw=small, samples=3)
    assert np.array_equal(image, again)


def test_the_lens_of_many_samples_is_as_sharp_as_the_picture() -> None:
    """A lens that is soft for 240 rows would leave nothing thin in a frame of 1080."""

    def steepest(samples: int) -> float:
        # Seed 1 has a lens that is not sharp.
        image, _ = scenes.render_image("street", seed=1, size_hw=(480, 160), samples=samples)
        return float(np.percentile(np.abs(np.diff(image.astype(int), axis=1)).max(2), 99.5))

    assert steepest(3) > 1.5 * steepest(1)


@pytest.mark.parametrize("width_m", [0.08, 0.14])
@pytest.mark.parametrize("depth", [15.0, 40.0])
def test_a_pole_is_as_thin_as_perspective_has_it(width_m: float, depth: float) -> None:
    class Pole:
        light = _LIGHT

        def paint(self, canvas: Canvas) -> None:
            canvas.labels[:], canvas.image[:] = 9, 255
            Billboard(canvas, 0.0, depth).line((0, 0), (0, 5), width_m, (0, 0, 0), 3)

    camera = Camera((60, 1920), focal_px=1600.0, horizon_px=20.0, s=0.0, height=1.5, z=0.0)
    image, labels = _drawn(Pole(), camera, 0.0, 3)  # type: ignore[arg-type]
    columns = np.flatnonzero(labels[25] == 3)
    dark = 1 - image[25, :, 0] / 255.0
    assert dark.sum() == pytest.approx(width_m * 1600 / depth, abs=0.5)
    assert abs(len(columns) - width_m * 1600 / depth) < 0.7
    assert np.array_equal(np.flatnonzero(dark > 0.5), columns)


def test_a_point_projects_where_a_pinhole_camera_puts_it() -> None:
    canvas = Canvas(_camera(), _LIGHT)
    board = Billboard(canvas, s=2.0, z=8.0)
    # 64 px focal length, 8 m away: 8 px per metre; column 48 + 2 * 8, row 32 + 1.5 * 8
    assert board.scale == pytest.approx(8.0)
    assert board.pixel(0.0, 0.0) == pytest.approx((64.0, 44.0))
    assert board.pixel(1.0, 1.5) == pytest.approx((72.0, 32.0))


def test_turning_the_camera_right_moves_things_left() -> None:
    straight = Canvas(_camera(), _LIGHT).view((0.0, 0.0, 10.0))
    turned = Canvas(_camera(yaw=0.1), _LIGHT).view((0.0, 0.0, 10.0))
    assert straight[0] == pytest.approx(0.0)
    assert turned[0] == pytest.approx(-10 * np.sin(0.1))
    assert turned[2] == pytest.approx(10 * np.cos(0.1))


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_frame_places_points_as_its_axes_do(turn: int) -> None:
    canvas = Canvas(_camera(yaw=0.3, s=0.4), _LIGHT)
    frame = Frame(1.0, 6.0, turn)
    origin, axes = canvas.axes(frame.s, frame.z, turn)
    local = np.array([0.7, 0.9, 1.3])
    assert local @ axes + origin == pytest.approx(canvas.view(frame.place(*local.tolist())))


def test_a_box_covers_the_pixels_its_corners_enclose() -> None:
    canvas = Canvas(_camera(), _LIGHT)
    draw_box(canvas, Frame(0.0, 4.0), (2.0, 1.5, 2.0), 0.0, (10.0, 20.0, 200.0), 7)
    rows, columns = np.nonzero(canvas.labels == 7)
    # front face at 4 m: 16 px per metre, from the ground (row 32 + 24) up to eye height (row 32)
    assert (columns.min(), columns.max()) == (pytest.approx(32, abs=1), pytest.approx(64, abs=1))
    assert (rows.min(), rows.max()) == (pytest.approx(32, abs=1), pytest.approx(56, abs=1))
    assert (canvas.image[40, 48] == (10, 20, 200)).all()


def test_what_reaches_behind_the_camera_is_cut_not_mirrored() -> None:
    canvas = Canvas(_camera(), _LIGHT)
    wall = [(1.0, 0.0, -5.0), (1.0, 0.0, 9.0), (1.0, 3.0, 9.0), (1.0, 3.0, -5.0)]
    canvas.polygon(wall, (1.0, 2.0, 3.0), 9)
    columns = np.nonzero(canvas.labels == 9)[1]
    assert columns.min() > 48
    assert columns.max() == 95


def test_phase_is_the_remainder_of_a_division() -> None:
    values = np.linspace(-7, 7, 101, dtype=np.float32)
    wrapped = phase(values, 0.6)
    assert ((wrapped >= 0) & (wrapped <= 0.6)).all()
    turns = (values - wrapped) / 0.6
    assert np.abs(turns - np.round(turns)).max() < 1e-4


def test_a_line_that_leaves_the_picture_on_both_sides_crosses_it() -> None:
    """Cut ends used to be counted twice: some halls with a railing could not be rendered."""
    canvas = Canvas(_camera(), _LIGHT)
    canvas.line((-60.0, 1.5, 8.0), (90.0, 1.5, 8.0), 0.5, (10.0, 20.0, 200.0), 7)
    rows, columns = np.nonzero(canvas.labels == 7)
    assert (columns.min(), columns.max()) == (0, 95)
    assert set(rows.tolist()) <= set(range(29, 36))  # eye height: the horizon, row 32


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
@pytest.mark.parametrize("place", [(-2.0, 5.0), (0.3, 4.0), (3.0, 9.0), (0.4, 0.8)])
def test_a_box_is_drawn_as_the_mesh_of_its_faces(turn: int, place: tuple[float, float]) -> None:
    light = Light(0.6, 0.8, 0.7, 1.0, (200.0, 190.0, 180.0), 60.0, 0.5, 0.0, 0.0)
    boxes, meshes = (Canvas(_camera(yaw=0.2, s=0.1), light) for _ in range(2))
    frame, (a, b, top, end) = Frame(*place, turn), (-0.4, 0.4, 1.2, 0.7)
    draw_box(boxes, frame, (0.8, 1.0, 0.7), 0.2, (90.0, 120.0, 200.0), 3)
    sides = [((a, a), (0.0, end)), ((b, b), (0.0, end)), ((a, b), (0.0, 0.0)), ((a, b), (end, end))]
    faces = [
        ([(x0, 0.2, z0), (x1, 0.2, z1), (x1, top, z1), (x0, top, z0)], 0)
        for (x0, x1), (z0, z1) in sides
    ]
    faces.append(([(a, top, 0.0), (b, top, 0.0), (b, top, end), (a, top, end)], 0))
    mesh = mesh_from_faces(faces, (0.0, 0.7, end / 2))
    draw_mesh(meshes, frame, mesh, ((90.0, 120.0, 200.0),), 3)
    assert (boxes.labels == 3).sum() > 20
    assert np.array_equal(boxes.labels, meshes.labels)
    assert np.abs(boxes.image.astype(int) - meshes.image).max() <= 1


def test_panes_are_the_rectangles_their_edges_name() -> None:
    """In one call as one by one, on a wall along the street that reaches behind the camera."""
    together, single = (Canvas(_camera(bend_m=3.0), _LIGHT) for _ in range(2))
    z = np.array([[-3.0, 1.0, 4.0, 7.5], [-2.0, 2.5, 6.0, 9.0]])
    foot = np.stack([np.full(z.shape, 1.2), z], -1)
    levels = np.array([[0.2, 1.4, 30.0], [1.0, 2.4, 31.0]])
    together.panes(foot, levels, (20.0, 90.0, 160.0), 1.0, label=5)
    for z0, z1 in z.T.tolist():
        for low, high in levels.T.tolist():
            if z0 > 0:
                corners = [(1.2, low, z0), (1.2, low, z1), (1.2, high, z1), (1.2, high, z0)]
                single.polygon(corners, (20.0, 90.0, 160.0), 5)
    assert (together.labels == 5).sum() > 300
    assert np.array_equal(together.labels, single.labels)
