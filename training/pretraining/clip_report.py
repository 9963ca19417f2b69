"""How well the nano CLIP reads scenes it never saw: regions, crops and single patches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.files import write_atomically
from dedos_deploy.model import Dedos
from dedos_deploy.model.word_embeddings import clip_tokenizer
from dedos_deploy.text.templates import TEMPLATES
from dedos_deploy.training.pretraining.clip_batches import patch_cover
from dedos_deploy.training.pretraining.clip_losses import look, read, region_embeddings
from dedos_deploy.training.pretraining.scenes import BASE_WORDS, NAMED_SHARE, WORDS, SceneSet

_BATCH = 32
_CONTEXT = 0.15  # a crop shows this much around a region's box, as a share of its sides


@dataclass(frozen=True)
class Scores:
    """Means over classes."""

    all: float
    """Mean over all words."""

    base: float
    """Mean over base words."""

    novel: float
    """Mean over novel words."""


@dataclass(frozen=True)
class ClipReport:
    """Zero-shot results on held-out scenes; candidates are always all words."""

    regions: Scores
    """Accuracy of mask-averaged patch tokens of the whole picture."""

    crops: Scores
    """Accuracy of the CLS token of the region's box cut out."""

    patches: Scores
    """IoU of the nearest word of every patch, at patch resolution."""

    novel_among_novel: float
    """Accuracy of novel regions with the novel words alone as candidates."""

    chance: float
    """Accuracy of guessing one of all words."""

    per_class: dict[str, float | None]
    """Region accuracy by word, None for a word that has no region."""

    counts: dict[str, int]
    """Number of regions by word."""

    steps: int
    """Steps of the pretraining."""

    elapsed_s: float
    """Seconds of the pretraining."""


def tokens_of(model: Dedos, texts: Sequence[str]) -> Tensor:
    """Return tokens int64 [N, L]; a sentence that is too long is cut."""
    tokenizer = clip_tokenizer(model.config.clip.text.context_length)
    return torch.from_numpy(tokenizer.encode(texts, truncate=True))


def word_tokens(model: Dedos, words: Sequence[str]) -> Tensor:
    """Return tokens int64 [N, L] of words in the template that DEDOS trains with."""
    return tokens_of(model, [TEMPLATES["single"][0].format(word) for word in words])


@torch.inference_mode()
def read_regions(
    model: Dedos, scenes: SceneSet, *, steps: int = 0, elapsed_s: float = 0.0
) -> ClipReport:
    """Return what `model` reads in `scenes`, which training must not have seen."""
    text = read(model, word_tokens(model, WORDS))
    patch = model.config.clip.patch
    words, by_region, by_crop = [], [], []
    hits = np.zeros((len(WORDS), len(WORDS)), np.int64)  # truth x answer, of patches
    for start in range(0, len(scenes), _BATCH):
        images, labels = (part[start : start + _BATCH] for part in (scenes.images, scenes.labels))
        cover = torch.from_numpy(np.stack([patch_cover(one, patch) for one in labels]))
        patches = look(model, torch.from_numpy(images)).patches
        truth, answer = cover.argmax(-1).numpy(), (patches @ text.T).argmax(-1).numpy()
        np.add.at(hits, (truth.ravel(), answer.ravel()), 1)
        picture, word, region = region_embeddings(patches, cover)
        large = cover.mean(1)[picture, word] >= NAMED_SHARE
        picture, word = picture[large], word[large]
        words.append(word.numpy())
        by_region.append((region[large] @ text.T).numpy())
        crops = [
            _region_crop(images[i], labels[i] == k)
            for i, k in zip(picture.tolist(), word.tolist(), strict=True)
        ]
        by_crop.append((_crops_seen(model, crops) @ text.T).numpy())
    return _report(
        np.concatenate(words),
        np.concatenate(by_region),
        np.concatenate(by_crop),
        hits,
        steps=steps,
        elapsed_s=elapsed_s,
    )


def _crops_seen(model: Dedos, crops: list[NDArray[np.uint8]]) -> Tensor:
    parts = [
        look(model, torch.from_numpy(np.stack(crops[start : start + _BATCH]))).cls
        for start in range(0, len(crops), _BATCH)
    ]
    return torch.cat(parts)


def _region_crop(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the mask's box with some of what is around it, at the picture's own size and shape."""
    import cv2

    height, width = mask.shape
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    # the crop keeps the picture's shape, so that nothing is stretched
    tall, wide = rows[-1] + 1 - rows[0], columns[-1] + 1 - columns[0]
    share = min(1.0, max(tall / height, wide / width, 0.2) * (1 + 2 * _CONTEXT))
    high, long = round(height * share), round(width * share)
    top = min(max(0, int(rows[0] + rows[-1] + 1 - high) // 2), height - high)
    left = min(max(0, int(columns[0] + columns[-1] + 1 - long) // 2), width - long)
    part = image[top : top + high, left : left + long]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _report(
    words: NDArray[np.int64],
    by_region: NDArray[np.float32],
    by_crop: NDArray[np.float32],
    hits: NDArray[np.int64],
    *,
    steps: int,
    elapsed_s: float,
) -> ClipReport:
    novel = words >= len(BASE_WORDS)
    among = by_region[novel][:, len(BASE_WORDS) :].argmax(1) + len(BASE_WORDS) == words[novel]
    regions = _by_class(words, by_region.argmax(1) == words)
    union = hits.sum(0) + hits.sum(1) - hits.diagonal()
    shown = hits.sum(1) > 0
    iou = np.where(shown, hits.diagonal() / np.maximum(union, 1), np.nan)
    return ClipReport(
        regions=_scores(regions),
        crops=_scores(_by_class(words, by_crop.argmax(1) == words)),
        patches=_scores(iou),
        novel_among_novel=_mean(_by_class(words[novel], among)),
        chance=1 / len(WORDS),
        per_class={
            word: None if np.isnan(value) else round(float(value), 4)
            for word, value in zip(WORDS, regions, strict=True)
        },
        counts={word: int((words == k).sum()) for k, word in enumerate(WORDS)},
        steps=steps,
        elapsed_s=round(elapsed_s, 1),
    )


def _by_class(words: NDArray[np.int64], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the accuracy of every word [K], NaN for one that never occurs."""
    total = np.bincount(words, minlength=len(WORDS))
    good = np.bincount(words, weights=right, minlength=len(WORDS))
    return np.where(total > 0, good / np.maximum(total, 1), np.nan)


def _scores(values: NDArray[np.float64]) -> Scores:
    base = len(BASE_WORDS)
    return Scores(_mean(values), _mean(values[:base]), _mean(values[base:]))


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def write_report(path: Path, report: ClipReport) -> None:
    """Write `report` as JSON, atomically.

    Raises BadInputError when the file cannot be written.
    """
    try:
        write_atomically(path, (json.dumps(asdict(report), indent=1) + "\n").encode())
    except OSError as error:
        raise BadInputError(f"cannot write {path} ({error.strerror or error})") from error
