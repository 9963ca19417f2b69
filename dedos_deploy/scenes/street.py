"""Street scenes: city, suburb, campus and highway, as seen by a car or a small robot."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dedos_deploy.scenes import texture
from dedos_deploy.scenes.actors import Actor, paint_actors
from dedos_deploy.scenes.canvas import Canvas, Colour, Light

CLASSES = tuple(
    (
        "sky, road, lane marking, sidewalk, grass, mountain, building, wall, fence, pole, "
        "traffic light, traffic sign, tree, bush, person, bicycle, motorcycle, car, truck, bus, "
        "bench, trash can"
    ).split(", ")
)
ID = {name: index for index, name in enumerate(CLASSES)}

_ROUGHNESS = {
    "tree": 0.28,
    "bush": 0.3,
    "grass": 0.16,
    "building": 0.05,
    "wall": 0.07,
    "mountain": 0.08,
    "road": 0.03,
    "sidewalk": 0.03,
    "sky": 0.0,
}


@dataclass(frozen=True)
class Street:
    """Cross-section and looks of a street; colours are BGR."""

    road: float
    """Half width."""
    verge: tuple[float, float]
    """Width of the grass strip on each side (left, right)."""
    walk: tuple[float, float]
    """Width of the pavement on each side (left, right)."""
    lanes: tuple[float, ...]
    """s of the dashed lines."""
    solid: tuple[float, ...]
    crossings: tuple[float, ...]
    """z of zebra crossings."""
    junctions: tuple[float, ...]
    """z of side streets."""
    asphalt: Colour
    paving: Colour
    lawn: Colour
    paint: Colour
    wear: float
    """Strength of stains."""
    tiles: float
    outer: str
    """Class beyond the pavement."""


@dataclass(frozen=True)
class Sky:
    """Colours at the horizon and above, amount of clouds in [0, 1] and their place."""

    low: Colour
    high: Colour
    clouds: float
    seed: int


@dataclass(frozen=True)
class StreetScene:
    """A street with all that stands on it."""

    street: Street
    sky: Sky
    light: Light
    actors: tuple[Actor, ...]

    def roughness(self) -> NDArray[np.float32]:
        """Return the surface texture amplitude per class id, [256]."""
        table = np.full(256, 0.04, np.float32)
        for name, amount in _ROUGHNESS.items():
            table[ID[name]] = amount
        return table

    def paint(self, canvas: Canvas) -> None:
        """Paint sky, ground and actors."""
        _paint_sky(canvas, self.sky)
        _paint_ground(canvas, self.street)
        paint_actors(canvas, self.actors)


def _paint_sky(canvas: Canvas, sky: Sky) -> None:
    height, width = canvas.labels.shape
    rows = min(height, max(1, int(canvas.camera.horizon_px) + 2))
    # clouds are soft: half the size is enough
    small = max(1, rows // 2), max(1, width // 2)
    ramp = np.linspace(1, 0, small[0], dtype=np.float32)[:, None, None] ** np.float32(0.8)
    high, low = np.array(sky.high, np.float32), np.array(sky.low, np.float32)
    band = np.broadcast_to(ramp * high + (1 - ramp) * low, (*small, 3))
    if sky.clouds > 0.05:
        offset = np.float32(random.Random(sky.seed).randrange(512))
        pitch = 220 * np.linspace(0, 1, small[0], dtype=np.float32)[:, None] ** np.float32(1.6)
        turn = np.linspace(0, 160, small[1], dtype=np.float32)[None]
        turn = turn + np.float32(canvas.camera.heading * 90)
        cloud = texture.sample(texture.noise(64), pitch + offset, turn + offset)
        share = np.clip(cloud * 1.4 + (sky.clouds * 2 - 1), 0, 1) * (0.35 + 0.65 * ramp[..., 0])
        white = 238.0 - 40 * np.clip(cloud, 0, 1)
        band = band + share[..., None] * (white[..., None] - band)
    band = np.ascontiguousarray(band, np.float32)
    smooth = cv2.resize(band, (width, rows), interpolation=cv2.INTER_LINEAR)
    canvas.image[:rows] = smooth.astype(np.uint8)
    canvas.labels[:rows] = ID["sky"]


def _paint_ground(canvas: Canvas, street: Street) -> None:
    """Cast every pixel below the horizon on the ground and colour it by where it lands."""
    camera = canvas.camera
    height, width = canvas.labels.shape
    top = max(0, int(camera.horizon_px) + 1)
    if top >= height:
        return
    v = np.arange(top, height, dtype=np.float32)[:, None]
    u = np.arange(width, dtype=np.float32)[None]
    ahead = camera.focal_px * camera.height / np.maximum(v - camera.horizon_px, 0.35)
    aside = (u - width / 2) / camera.focal_px * ahead
    cos, sin = math.cos(camera.heading), math.sin(camera.heading)
    z = camera.z + ahead * cos - aside * sin
    s = aside * cos + ahead * sin + camera.bend(camera.z) + camera.s
    if camera.bend_m:
        s -= camera.bend_m * np.sin(z / camera.bend_length_m)
    colour, labels = _ground_zones(street, s, z)
    _ground_marks(street, s, z, ahead / camera.focal_px, colour, labels)
    near = np.exp(-ahead / 18)
    fine = texture.sample(texture.noise(4), z * 14, s * 14)
    coarse = texture.sample(texture.noise(64), z * 5 + 77, s * 9)
    gain = 1 + street.wear * (0.16 * near * fine + 0.22 * coarse * (0.3 + 0.7 * near))
    _tile_joints(street, s, z, ahead, labels, gain)
    air = np.exp(-ahead / canvas.light.haze_m)[..., None]
    lit = colour * (gain * canvas.light.top)[..., None]
    haze = np.array(canvas.light.haze, np.float32)
    canvas.image[top:] = np.clip(lit * air + haze * (1 - air), 0, 255).astype(np.uint8)
    canvas.labels[top:] = labels


def _ground_zones(
    street: Street, s: NDArray[np.float32], z: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    road, (verge_l, verge_r), (walk_l, walk_r) = street.road, street.verge, street.walk
    edges = (
        -road - verge_l - walk_l,
        -road - verge_l,
        -road - 0.16,
        -road,
        road,
        road + 0.16,
        road + verge_r,
        road + verge_r + walk_r,
    )
    kerb: Colour = (165, 168, 170)
    outer: Colour = street.lawn if street.outer == "grass" else street.paving
    strip: Colour = street.lawn
    zone_colours = (
        outer,
        street.paving,
        strip,
        kerb,
        street.asphalt,
        kerb,
        strip,
        street.paving,
        outer,
    )
    walk, lawn, tar = ID["sidewalk"], ID["grass"], ID["road"]
    zone_labels = (ID[street.outer], walk, lawn, walk, tar, walk, lawn, walk, ID[street.outer])
    zone = np.zeros(s.shape, np.uint8)
    for edge in edges:
        zone += s > edge
    for start in street.junctions:
        zone[(z > start) & (z < start + 7)] = 4
    colour = np.array(zone_colours, np.float32)[zone]
    return colour, np.array(zone_labels, np.uint8)[zone]


def _ground_marks(
    street: Street,
    s: NDArray[np.float32],
    z: NDArray[np.float32],
    metres_per_pixel: NDArray[np.float32],
    colour: NDArray[np.float32],
    labels: NDArray[np.uint8],
) -> None:
    half = 0.075 + 0.25 * metres_per_pixel
    marked = np.zeros(s.shape, bool)
    dashes = texture.phase(z, 9.0) < 4.0
    for lane in street.lanes:
        marked |= (np.abs(s - lane) < half) & dashes
    for lane in street.solid:
        marked |= np.abs(s - lane) < half
    for start in street.junctions:
        marked &= ~((z > start) & (z < start + 7))
    for start in street.crossings:
        inside = (z > start) & (z < start + 3)
        marked = (marked & ~inside) | (inside & (texture.phase(s, 1.0) < 0.5))
        stop = (z > start - 1.6) & (z < start - 1.2) & (s > 0)
        marked |= stop
    marked &= (np.abs(s) < street.road - 0.12) & (z < z.min() + 90)
    colour[marked] = street.paint
    labels[marked] = ID["lane marking"]


def _tile_joints(
    street: Street,
    s: NDArray[np.float32],
    z: NDArray[np.float32],
    ahead: NDArray[np.float32],
    labels: NDArray[np.uint8],
    gain: NDArray[np.float32],
) -> None:
    if not street.tiles:
        return
    size = street.tiles
    joints = (texture.phase(s, size) < 0.04) | (texture.phase(z, size) < 0.05)
    joints &= (labels == ID["sidewalk"]) & (ahead < 14)
    gain[joints] *= 0.8


def paint_skyline(canvas: Canvas, z: float, *, seed: int, name: str) -> None:
    """Paint what stands at the horizon, and label it as `name`."""
    rng = random.Random(seed)
    height, width = canvas.labels.shape
    horizon = canvas.camera.horizon_px
    tall = height * (rng.uniform(0.04, 0.2) if name == "mountain" else rng.uniform(0.03, 0.08))
    angle = np.arange(0, width + 3, 3, dtype=np.float32)
    turn = (angle / np.float32(canvas.camera.focal_px) + np.float32(canvas.camera.heading)) * 30
    tile = texture.noise(64 if name == "mountain" else 16)
    row = np.full(turn.shape, rng.randrange(512), np.float32)
    bumps = turn * np.float32(2 if name == "mountain" else 5) + 512
    rise = 0.55 + 0.45 * texture.sample(tile, row, bumps.astype(np.float32))
    top = horizon - tall * rise
    outline = (
        np.concatenate([np.stack([angle, top], -1), [[width + 3, horizon + 2], [0, horizon + 2]]])
        .round()
        .astype(np.int32)
    )
    base: Colour = rng.choice(((90, 105, 80), (110, 105, 95), (75, 95, 70)))
    base = base if name == "mountain" else (50, 85, 60)
    ink = canvas.colour_at(base, 0.8 * canvas.light.haze_m, 0.95)
    cv2.fillPoly(canvas.image, [outline], ink, cv2.LINE_AA)
    cv2.fillPoly(canvas.labels, [outline], ID[name])
