"""Random crops of labelled pictures, with the activations that trained nets have there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.augment import AugmentSettings, jitter_colour
from dedos_deploy.training.folders import LabelFolder, read_pair, union_words
from dedos_deploy.training.pretraining.teacher_features import (
    LEVELS,
    FeatureLayer,
    FeatureStore,
    teacher_size,
)


@dataclass(frozen=True)
class TrunkSettings:
    """How the trunk learns.

    Raises BadInputError without an end or for values out of range.
    """

    minutes: float | None = 30.0
    """Wall clock of the training, features made before it not counted."""

    steps: int | None = None
    """Number of steps, None for as many as fit into `minutes`."""

    batch: int = 8
    sizes: tuple[tuple[int, int], ...] = ((192, 256), (240, 320), (240, 320), (288, 384))
    """Network sizes (height, width), one drawn per step."""

    zoom: tuple[float, float] = (1.0, 2.5)
    """Range of the crop against the whole picture, 1 is all of it."""

    aspect: float = 1.2
    """Largest ratio of stretching."""

    lr: float = 1e-3
    """Peak learning rate, after `warmup` steps, then a cosine to 0."""

    muon: float = 0.003
    """Peak learning rate of the blocks' matrices, whose steps are orthogonal (see muon.py; 0: AdamW
    with `lr` for them, too)."""

    darken: float = 0.0
    """Most stops of light taken from crops, see AugmentSettings; the teachers see pictures as they are."""

    weight_decay: float = 0.05
    warmup: int = 60
    features: float = 1.0
    """Weight of the loss of the activations."""

    words: float = 0.5
    """Weight of the loss of the words."""

    held_out: int = 25
    """Every so-many-th picture of a folder is kept for measuring (0: none)."""

    seed: int = 0
    amp: bool = True
    save_minutes: float = 5.0

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            raise BadInputError("trunk training needs an end; give --minutes, --steps or both")
        for name in ("minutes", "steps", "batch", "lr"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInputError(f"{name} is {value}, but must be more than 0")
        if self.held_out < 0 or self.held_out == 1:
            raise BadInputError(
                f"held_out is {self.held_out}, but must be 0 for none, or 2 or more: of 1 nothing is left "
                "to learn from"
            )
        if not (1 <= self.zoom[0] <= self.zoom[1] and self.aspect >= 1 and self.sizes):
            raise BadInputError(
                f"zoom {self.zoom} must rise from at least 1, aspect {self.aspect} be at least 1, "
                "and one size be given"
            )
        _ = self.colours

    @property
    def colours(self) -> AugmentSettings:
        """How far the colours of crops are varied."""
        return AugmentSettings(darken=self.darken)


@dataclass(frozen=True)
class Patches:
    """One batch of crops."""

    images: Tensor
    """uint8 [B, H, W, 3] BGR."""

    labels: Tensor
    """int64 [B, H, W], slot or IGNORE."""

    annotated: Tensor
    """bool [B, K]."""

    targets: tuple[Tensor, ...]
    """Per layer, whitened activations at the patches, float32 [B, N, D]."""


@dataclass(frozen=True)
class Window:
    """A crop of a picture: pixels [top, top + height) x [left, left + width), mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


class PatchStream:
    """Batches of crops with the nets' activations; batch number `step` never changes.

    items: (folder, picture) pairs to draw from, `share` of a folder times as often.
    """

    def __init__(
        self,
        folders: Sequence[LabelFolder],
        items: Sequence[tuple[int, int]],
        store: FeatureStore,
        settings: TrunkSettings,
        patch: int,
    ) -> None:
        self.folders, self.items = tuple(folders), tuple(items)
        self.store, self.settings, self.patch = store, settings, patch
        self.words = union_words(folders)
        self._slots = {word: index for index, word in enumerate(self.words)}
        self._tables = [folder.lookup(self._slots) for folder in folders]
        shares = np.array([folders[owner].share for owner, _ in items], np.float64)
        self._chances = shares / shares.sum()

    def batch(self, step: int) -> Patches:
        """Return the crops of one step."""
        random = np.random.default_rng((self.settings.seed, step))
        size = self.settings.sizes[int(random.integers(len(self.settings.sizes)))]
        drawn = random.choice(len(self.items), self.settings.batch, p=self._chances)
        return self.crops([self.items[i] for i in drawn], size, random)

    def crops(
        self,
        items: Sequence[tuple[int, int]],
        size_hw: tuple[int, int],
        random: np.random.Generator | None,
    ) -> Patches:
        """Return a random crop of each item, or with `random` None the whole pictures."""
        parts = [self._crop(owner, item, size_hw, random) for owner, item in items]
        annotated = torch.zeros(len(items), len(self.words), dtype=torch.bool)
        for row, (owner, _) in enumerate(items):
            for word in self.folders[owner].annotated:
                annotated[row, self._slots[word]] = True
        return Patches(
            torch.from_numpy(np.stack([image for image, _, _ in parts])),
            torch.from_numpy(np.stack([labels for _, labels, _ in parts])),
            annotated,
            tuple(
                torch.stack(layer) for layer in zip(*(maps for _, _, maps in parts), strict=True)
            ),
        )

    def _crop(
        self, owner: int, item: int, size_hw: tuple[int, int], random: np.random.Generator | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], list[Tensor]]:
        import cv2

        image, raw = read_pair(self.folders[owner], item)
        codes = self.store.read(image)
        whole = (image.shape[0], image.shape[1])
        window = Window(0, 0, *whole, False)
        if random is not None:
            window = random_window(whole, self.settings, random)
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        method = cv2.INTER_AREA if window.height > size_hw[0] else cv2.INTER_LINEAR
        seen = cv2.resize(image[rows, columns], size_hw[::-1], interpolation=method)
        labels = cv2.resize(
            self._tables[owner][raw[rows, columns]].astype(np.int32),
            size_hw[::-1],
            interpolation=cv2.INTER_NEAREST_EXACT,
        ).astype(np.int64)
        if window.mirrored:
            seen, labels = seen[:, ::-1], labels[:, ::-1]
        out = np.ascontiguousarray(seen, np.uint8)
        if random is not None:
            out = jitter_colour(out, self.settings.colours, random)
        grid = (size_hw[0] // self.patch, size_hw[1] // self.patch)
        maps = [
            sampled(code, layer, window, whole, grid, self.store.side_px)
            for code, layer in zip(codes, self.store.layers, strict=True)
        ]
        return out, np.ascontiguousarray(labels), maps


def random_window(
    whole_hw: tuple[int, int], settings: TrunkSettings, random: np.random.Generator
) -> Window:
    """Return a crop inside a picture, its zoom drawn evenly on a logarithmic scale."""
    zoom = float(np.exp(random.uniform(*np.log(settings.zoom))))
    stretch = float(np.exp(random.uniform(-1, 1) * np.log(settings.aspect) / 2))
    sides = [
        min(side, max(8, round(side / (zoom * factor))))
        for side, factor in zip(whole_hw, (stretch, 1 / stretch), strict=True)
    ]
    top, left = (
        int(random.integers(side - length + 1))
        for side, length in zip(whole_hw, sides, strict=True)
    )
    return Window(top, left, sides[0], sides[1], bool(random.random() < 0.5))


def sampled(
    code: NDArray[np.int8],
    layer: FeatureLayer,
    window: Window,
    whole_hw: tuple[int, int],
    grid_hw: tuple[int, int],
    side_px: int,
) -> Tensor:
    """Return a layer's whitened activations at the patches of a crop, float32 [N, D].

    code: int8 [D, h, w] of the whole picture. Each patch is the mean of 2 x 2 points inside it.
    """
    net_hw = teacher_size(whole_hw, side_px)
    axes = []
    for axis, (start, length) in enumerate(
        ((window.top, window.height), (window.left, window.width))
    ):
        points = (torch.arange(2 * grid_hw[axis]) + 0.5) / (2 * grid_hw[axis])
        pixels = (start + points * length) * net_hw[axis] / whole_hw[axis] - 0.5
        cells = (pixels - layer.offset) / layer.stride
        # grid_sample counts from -1, the centre of the first cell, to 1, that of the last
        axes.append(2 * cells / max(code.shape[1 + axis] - 1, 1) - 1)
    columns = axes[1].flip(0) if window.mirrored else axes[1]
    where = torch.stack(torch.meshgrid(columns, axes[0], indexing="xy"), dim=-1)
    values = torch.from_numpy(code)[None].float() / LEVELS
    points = F.grid_sample(values, where[None], padding_mode="border", align_corners=True)
    return F.avg_pool2d(points, 2)[0].flatten(1).T.contiguous()


def split_items(
    folders: Sequence[LabelFolder], held_out: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return (folder, picture) pairs to train on and to measure on, every `held_out`-th."""
    train: list[tuple[int, int]] = []
    held: list[tuple[int, int]] = []
    for owner, folder in enumerate(folders):
        for item in range(len(folder.items)):
            kept = held_out and item % held_out == held_out // 2
            (held if kept else train).append((owner, item))
    return train, held


def readers(
    folders: Sequence[LabelFolder], items: Sequence[tuple[int, int]]
) -> list[Callable[[], NDArray[np.uint8]]]:
    """Return a function per item that reads its picture."""

    def reader(owner: int, item: int) -> Callable[[], NDArray[np.uint8]]:
        return lambda: read_pair(folders[owner], item)[0]

    return [reader(owner, item) for owner, item in items]
