"""Batches of the nano CLIP: crops of scenes with captions and with what every patch shows."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dedos_deploy.training.pretraining.scenes import BASE_WORDS, WORDS, SceneSet, caption_of

_WHOLE = 0.35  # share of items that show the whole picture
_SMALLEST = 0.3  # side of the smallest crop, as a share of the picture's


@dataclass(frozen=True)
class ClipBatch:
    """One item per picture or crop. Novel words are in `captions` and `named` only."""

    images: Tensor
    """uint8 [B, H, W, 3] BGR."""

    captions: tuple[str, ...]
    """One sentence each."""

    named: Tensor
    """bool [B, K], which words the sentence names."""

    cover: Tensor
    """float32 [B, P, K_base], the share of each patch that each base word covers."""


def clip_batch(scenes: SceneSet, *, batch: int, patch: int, seed: int, step: int) -> ClipBatch:
    """Return batch number `step`, a function of its arguments alone."""
    numbers = np.random.default_rng((seed, step))
    chosen = numbers.choice(len(scenes), batch, replace=batch > len(scenes))
    images, covers, captions = [], [], []
    named = torch.zeros(batch, len(WORDS), dtype=torch.bool)
    for row, index in enumerate(chosen.tolist()):
        rng = random.Random(f"clip {seed} {step} {row}")
        image, labels = _crop(scenes.images[index], scenes.labels[index], rng)
        if rng.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        caption = caption_of(labels, scenes.kind(index), rng)
        named[row, list(caption.words)] = True
        images.append(_relit(image, rng))
        covers.append(patch_cover(labels, patch)[:, : len(BASE_WORDS)])
        captions.append(caption.text)
    return ClipBatch(
        torch.from_numpy(np.stack(images)),
        tuple(captions),
        named,
        torch.from_numpy(np.stack(covers)),
    )


def patch_cover(labels: NDArray[np.uint8], patch: int) -> NDArray[np.float32]:
    """Return the share of each patch that each word covers, float32 [P, K], rows sum to one."""
    rows, columns = labels.shape[0] // patch, labels.shape[1] // patch
    numbers = np.arange(rows * columns, dtype=np.int64).reshape(rows, columns)
    owner = numbers.repeat(patch, axis=0).repeat(patch, axis=1)
    pairs = owner * len(WORDS) + labels[: rows * patch, : columns * patch]
    counts = np.bincount(pairs.ravel(), minlength=rows * columns * len(WORDS))
    return (counts.reshape(-1, len(WORDS)) / (patch * patch)).astype(np.float32)


def _crop(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], rng: random.Random
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the whole picture, or a closer view of something in it at the same size."""
    import cv2

    if rng.random() < _WHOLE:
        return image, labels
    height, width = labels.shape
    share = rng.uniform(_SMALLEST, 0.9)
    high, wide = round(height * share), round(width * share)
    # every class present is as likely to be looked at, not every pixel
    present = np.unique(labels).tolist()
    spots = np.flatnonzero(labels == rng.choice(present))
    y, x = divmod(int(spots[rng.randrange(len(spots))]), width)
    top = min(max(0, y - rng.randrange(high)), height - high)
    left = min(max(0, x - rng.randrange(wide)), width - wide)
    part = np.s_[top : top + high, left : left + wide]
    closer = cv2.resize(image[part], (width, height), interpolation=cv2.INTER_LINEAR)
    ids = cv2.resize(labels[part], (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(closer, np.uint8), np.asarray(ids, np.uint8)


def _relit(image: NDArray[np.uint8], rng: random.Random) -> NDArray[np.uint8]:
    """Change brightness, contrast and white balance a little."""
    gain = rng.uniform(0.8, 1.2)
    gains = [gain * rng.uniform(0.94, 1.06) for _ in range(3)]
    ramp = np.arange(256, dtype=np.float32)[:, None]
    table = np.clip(ramp * np.array(gains, np.float32) + rng.uniform(-12, 12), 0, 255)
    channels = [table[:, c].astype(np.uint8)[image[..., c]] for c in range(3)]
    return np.ascontiguousarray(np.stack(channels, -1))
