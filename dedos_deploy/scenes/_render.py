"""Rendering of whole scenes: one picture, or a drive through one scene."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.scenes import hall, hall_plan, street, street_plan, texture
from dedos_deploy.scenes.actors import Actor
from dedos_deploy.scenes.canvas import Camera, Canvas

KINDS = ("street", "hall")
_CLASSES = {"street": street.CLASSES, "hall": hall.CLASSES}
_MIN_SIDE = 16


Scene = street.StreetScene | hall.HallScene


@dataclass(frozen=True)
class Lens:
    """How a camera of this scene records: white balance, tone curve, falloff, grain, blur."""

    tint: tuple[float, float, float]
    gamma: float
    vignette: float
    grain: float
    blur: float


def class_names(kind: str) -> tuple[str, ...]:
    """Return the class names of a kind of scene; a label is an index into them.

    Raises BadInputError for an unknown kind.
    """
    if kind not in _CLASSES:
        raise BadInputError(f"unknown kind of scene {kind!r}; kinds: {', '.join(KINDS)}")
    return _CLASSES[kind]


def render_image(
    kind: str, *, seed: int, size_hw: tuple[int, int], samples: int = 1
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return one picture and its labels.

    samples: drawn pixels per pixel of the picture, along each axis. 1 is fast and for small pictures: lines
    are up to two pixels too thick, and the lens is as soft as that of a picture 240 pixels high. With 3
    what is thin is as thin as perspective has it, to half a pixel, and the lens as sharp as the
    picture is large; a frame of 1920x1080 takes ten seconds. The scene of a seed is the same.

    | value | shape | dtype | meaning |
    |---|---|---|---|
    | picture | [H, W, 3] | uint8 | BGR |
    | labels | [H, W] | uint8 | index into `class_names(kind)`; every pixel has one |

    Raises BadInputError for an unknown kind, a side under 16 pixels, or a number of samples that is even,
    which has no middle, or below 1.
    """
    if samples < 1 or samples % 2 == 0:
        raise BadInputError(f"samples must be an odd number from 1 on, not {samples}; take 1 or 3")
    scene, camera, lens = _set_up(kind, seed, size_hw, length=150.0, start=(0.0, 20.0))
    half, ahead = (1.6, 7.0) if kind == "street" else (0.6, 2.0)
    scene = replace(scene, actors=_view_cleared(scene.actors, camera, half, ahead))
    return _shoot(scene, camera, lens, 0.0, seed, grain_seed=seed, samples=samples)


def render_video(
    kind: str, *, frames: int, size_hw: tuple[int, int], seed: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield `frames` pictures and labels of a camera that moves forward through one scene.

    Shapes and dtypes as `render_image`; 25 frames make one second. Raises BadInputError as
    `render_image` does, and for a negative number of frames.
    """
    if frames < 0:
        raise BadInputError(f"the number of frames must not be negative, received {frames}")
    step = 0.22 if kind == "street" else 0.06
    length = 140.0 + frames * step
    scene, camera, lens = _set_up(kind, seed, size_hw, length=length, start=(0.0, 0.0), steady=True)
    half = 2.0 if kind == "street" else 0.7
    scene = replace(scene, actors=_way_cleared(scene.actors, camera, half, step * 25))
    return _drive(scene, camera, lens, frames, step, seed)


def _drive(
    scene: Scene, camera: Camera, lens: Lens, frames: int, step: float, seed: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    for index in range(frames):
        time_s = index / 25
        moved = replace(
            camera,
            horizon_px=camera.horizon_px + 0.004 * camera.size_hw[0] * math.sin(2.1 * time_s),
            s=camera.s + 0.12 * math.sin(0.5 * time_s),
            z=camera.z + step * index,
            yaw=camera.yaw + 0.03 * math.sin(0.6 * time_s),
        )
        yield _shoot(scene, moved, lens, time_s, seed, grain_seed=seed + index)


_SOLID = 3  # actors of this layer can stand in the camera's way


def _view_cleared(
    actors: tuple[Actor, ...], camera: Camera, half: float, ahead: float
) -> tuple[Actor, ...]:
    """Leave out what would fill the picture: things within `half` x `ahead` metres."""
    return tuple(
        actor
        for actor in actors
        if actor.layer < _SOLID
        or abs(actor.s - camera.s) > half
        or actor.z - actor.length / 2 > camera.z + ahead
    )


def _way_cleared(
    actors: tuple[Actor, ...], camera: Camera, half: float, pace: float
) -> tuple[Actor, ...]:
    """Let the camera drive at `pace`: traffic in its lane is as fast, the rest is left out."""
    kept = []
    for actor in actors:
        if actor.layer == _SOLID and abs(actor.s - camera.s) < half:
            if actor.speed <= 0 or actor.z < camera.z + 12:
                continue
            actor = replace(actor, speed=max(actor.speed, pace))
        kept.append(actor)
    return tuple(kept)


def _shoot(
    scene: Scene,
    camera: Camera,
    lens: Lens,
    time_s: float,
    seed: int,
    grain_seed: int,
    samples: int = 1,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    image, labels = _drawn(scene, camera, time_s, samples)
    image = texture.finish(
        image,
        labels,
        roughness=scene.roughness(),
        tint=lens.tint,
        gamma=lens.gamma,
        vignette=lens.vignette,
        grain=lens.grain,
        blur=lens.blur * (camera.size_hw[0] / 240 if samples == 1 else 1),
        texture_seed=seed,
        grain_seed=grain_seed,
    )
    return image, labels


def _drawn(
    scene: Scene, camera: Camera, time_s: float, samples: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return what the camera sees, uint8 [H, W, 3], averaged over samples, and the labels of the middle
    ones, uint8 [H, W]."""
    height, width = camera.size_hw
    finer = replace(
        camera,
        size_hw=(height * samples, width * samples),
        focal_px=camera.focal_px * samples,
        horizon_px=camera.horizon_px * samples,
    )
    canvas = Canvas(finer, scene.light, time_s, exact=samples > 1)
    scene.paint(canvas)
    if samples == 1:
        return canvas.image, canvas.labels
    image = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA)
    middle = samples // 2
    labels = np.ascontiguousarray(canvas.labels[middle::samples, middle::samples])
    return np.asarray(image, np.uint8), labels


def _set_up(
    kind: str,
    seed: int,
    size_hw: tuple[int, int],
    *,
    length: float,
    start: tuple[float, float],
    steady: bool = False,
) -> tuple[Scene, Camera, Lens]:
    class_names(kind)
    if min(size_hw) < _MIN_SIDE:
        raise BadInputError(
            f"size {size_hw[0]}x{size_hw[1]} is too small for a scene; "
            f"each side must be at least {_MIN_SIDE} pixels"
        )
    rng = random.Random(f"{kind} {seed}")
    scene: Scene
    if kind == "street":
        planned = street_plan.plan_street(rng.randrange(1 << 30), length)
        scene, camera = planned, _street_camera(rng, planned.street.road, size_hw, start, steady)
    else:
        room = hall_plan.plan_hall(rng.randrange(1 << 30), length)
        scene, camera = room, _hall_camera(rng, room.room.half_width, size_hw, start, steady)
    spread = 0.05 if steady else 0.1
    warm = rng.uniform(-spread, spread)
    gain = rng.uniform(0.92, 1.1) if steady else rng.uniform(0.7, 1.2)
    lens = Lens(
        tint=(gain * (1 - warm), gain, gain * (1 + warm)),
        gamma=rng.uniform(0.85, 1.25),
        vignette=rng.uniform(0.0, 0.3),
        grain=rng.uniform(1.0, 3.0) if steady else rng.uniform(1.0, 9.0),
        blur=0.4 if steady else rng.choice((0.0, 0.5, 0.7, 1.0)),
    )
    return scene, camera, lens


def _street_camera(
    rng: random.Random,
    road: float,
    size_hw: tuple[int, int],
    start: tuple[float, float],
    steady: bool,
) -> Camera:
    height, width = size_hw
    where = rng.random()
    lane = road * rng.uniform(0.2, 0.6) * (1 if where < 0.75 or steady else -1)
    if not steady and where > 0.9:
        lane = (road + 1.2) * rng.choice((-1, 1))
    return Camera(
        size_hw,
        focal_px=width * rng.uniform(0.7, 1.15),
        horizon_px=height * (rng.uniform(0.38, 0.48) if steady else rng.uniform(0.22, 0.62)),
        s=lane,
        height=rng.uniform(1.2, 1.6) if steady or rng.random() < 0.6 else rng.uniform(0.5, 2.4),
        z=rng.uniform(*start),
        yaw=rng.uniform(-0.02, 0.02) if steady else rng.gauss(0, 0.16),
        bend_m=rng.choice((0.0, 0.0, 3.0, -4.0, 6.0)),
        bend_length_m=rng.uniform(45, 90),
    )


def _hall_camera(
    rng: random.Random,
    half_width: float,
    size_hw: tuple[int, int],
    start: tuple[float, float],
    steady: bool,
) -> Camera:
    height, width = size_hw
    return Camera(
        size_hw,
        focal_px=width * rng.uniform(0.6, 1.0),
        horizon_px=height * (rng.uniform(0.4, 0.5) if steady else rng.uniform(0.12, 0.65)),
        s=half_width * rng.uniform(-0.25, 0.25) if steady else half_width * rng.uniform(-0.6, 0.6),
        height=rng.uniform(0.9, 1.4) if steady else rng.uniform(0.35, 1.6),
        z=rng.uniform(start[0], start[1] * 0.4),
        yaw=rng.uniform(-0.05, 0.05) if steady else rng.gauss(0, 0.35),
    )
