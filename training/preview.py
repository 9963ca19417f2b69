"""Pictures of a run: the first batch with its labels, and what the model says while it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.errors import BadInputError
from dedos_deploy.files import write_atomically
from dedos_deploy.model import Dedos
from dedos_deploy.model.word_embeddings import WordEmbeddings
from dedos_deploy.pictures import Picture
from dedos_deploy.runtime.sinks.palette import Colour, colours_of
from dedos_deploy.training.data import Batch
from dedos_deploy.training.evaluate import network_input
from dedos_deploy.training.folders import LabelFolder, read_pair
from dedos_deploy.training.settings import TrainSettings

SAMPLES, FIRST_BATCH = "samples", "first_batch.png"


_LINE = 16
"""Height of a legend line in pixels."""


def write_first_batch(path: Path, batch: Batch, words: Sequence[str]) -> None:
    """Write a sheet of a batch: every image above its labels, and the words that occur.

    words: the union vocabulary that `batch.slots` index. Grey is unlabelled, black a class that
    this batch does not ask for.
    """
    rows = []
    slots = [words[slot] for slot in batch.slots]
    colours = colours_of(slots)
    for image, labels in zip(batch.images.numpy(), batch.labels.numpy(), strict=True):
        painted = _painted(image, labels, colours)
        seen = [(slots[slot], colours[slot]) for slot in np.unique(labels[labels >= 0])]
        rows.append(np.concatenate([image, painted, _legend(seen, *image.shape[:2])], axis=1))
    write_picture(path, np.concatenate(rows))


@dataclass(frozen=True)
class Sample:
    """Pictures of one validation image, uint8 BGR [H, W, 3] each: as the network sees it, its
    labels, the model's answer, and the words that occur in either.
    """

    image: Picture
    labels: Picture
    answer: Picture
    legend: Picture


def write_samples(
    path: Path,
    model: Dedos,
    folder: LabelFolder,
    embeddings: WordEmbeddings,
    words: Sequence[str],
    settings: TrainSettings,
) -> Picture:
    """Write and return a sheet of validation images: image, labels, the model's answer, words.

    words: the union vocabulary that `embeddings` index.
    """
    index = {word: slot for slot, word in enumerate(words)}
    text = embeddings([index[word] for word in folder.annotated], model=model)
    rows = sample_rows(model, folder, text, settings.network_hw, settings.samples)
    sheet = np.concatenate(
        [np.concatenate([row.image, row.labels, row.answer, row.legend], axis=1) for row in rows]
    )
    path.parent.mkdir(exist_ok=True)
    write_picture(path, sheet)
    return sheet


@torch.no_grad()
def sample_rows(
    model: Dedos, folder: LabelFolder, text: Tensor, size_hw: tuple[int, int], count: int
) -> list[Sample]:
    """Return `count` validation images, evenly spread, with what the model says.

    text: embeddings float32 [K, D] of the folder's annotated words.
    """
    words = folder.annotated
    colours = colours_of(words)
    valid = torch.ones(len(words), device=text.device)
    table = folder.lookup({word: slot for slot, word in enumerate(words)})
    training = model.training
    model.eval()
    rows = []
    count = min(count, len(folder.items))
    for item in (number * len(folder.items) // count for number in range(count)):
        image, raw = read_pair(folder, item)
        small = network_input(image, size_hw)
        scores = model(small.to(text.device), text, valid).float()
        scores = F.interpolate(scores, size_hw, mode="bilinear", align_corners=False)
        found = scores[0].argmax(0).cpu().numpy()
        shown = small[0].numpy()
        labels = _nearest(table[raw], size_hw)
        occur = np.union1d(np.unique(found), labels[labels >= 0])
        legend = _legend([(words[slot], colours[slot]) for slot in occur], *size_hw)
        painted = _painted(shown, labels, colours), _painted(shown, found, colours)
        rows.append(Sample(shown, *painted, legend))
    model.train(training)
    return rows


def _nearest(labels: NDArray[np.int64], size_hw: tuple[int, int]) -> NDArray[np.int64]:
    rows = (np.arange(size_hw[0]) * 2 + 1) * labels.shape[0] // (2 * size_hw[0])
    columns = (np.arange(size_hw[1]) * 2 + 1) * labels.shape[1] // (2 * size_hw[1])
    picked: NDArray[np.int64] = labels[rows][:, columns]
    return picked


def _painted(image_bgr: Picture, labels: NDArray[np.int64], palette: Sequence[Colour]) -> Picture:
    """Return the image mixed with class colours; negative labels stay grey or black."""
    colours = np.array(palette, np.int64)[np.maximum(labels, 0)]
    grey = image_bgr.mean(-1, keepdims=True).astype(np.int64) // 2
    dark = np.where((labels == -1)[..., None], grey + 64, grey // 3)
    mixed = np.where((labels >= 0)[..., None], (image_bgr + 2 * colours) // 3, dark)
    return mixed.astype(np.uint8)


def _legend(entries: Sequence[tuple[str, Colour]], height: int, width: int) -> Picture:
    import cv2

    panel = np.full((height, max(120, width // 2), 3), 24, np.uint8)
    for row, (word, colour) in enumerate(entries[: height // _LINE]):
        top = row * _LINE
        panel[top + 3 : top + 13, 4:14] = colour
        text = word.encode("ascii", "replace").decode()
        cv2.putText(
            panel,
            text,
            (20, top + 12),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.4,
            (230, 230, 230),
            1,
            cv2.LINE_AA,
        )
    return panel


def write_picture(path: Path, image_bgr: Picture) -> None:
    """Write uint8 BGR [H, W, 3] to `path` whole or not at all.

    Raises BadInputError when it cannot be written.
    """
    import cv2

    encoded, content = cv2.imencode(path.suffix, image_bgr)
    if not encoded:
        raise BadInputError(f"cannot write picture {path}; name it .png or .jpg")
    try:
        write_atomically(path, content.tobytes())
    except OSError as error:
        raise BadInputError(
            f"cannot write picture {path}; make room or choose another folder"
        ) from error
