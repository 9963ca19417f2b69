"""Batches as a pure function of (seed, step): what makes a resumed run repeat the first one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dedos_deploy.errors import DedosError
from dedos_deploy.training.augment import AugmentSettings, augment
from dedos_deploy.training.folders import LabelFolder, read_pair, union_words
from dedos_deploy.training.targets import IGNORE, OTHER


@dataclass(frozen=True)
class Batch:
    """Images of several data sets under one vocabulary.

    images: uint8 [B, H, W, 3] BGR; labels: int64 [B, H, W], slot, IGNORE or OTHER;
    slots: indices into the union vocabulary, one per slot K; annotated: bool [B, K].
    """

    images: Tensor
    labels: Tensor
    slots: tuple[int, ...]
    annotated: Tensor


@dataclass(frozen=True)
class BatchSettings:
    """Shape and variety of batches.

    vocabulary: most slots in a batch; every class seen in the batch comes first, absent ones fill
    up at random as negatives. drop_words: probability that a batch loses a random part of its
    words, pixels of lost classes becoming OTHER: users ask for "car,road" alone, too.
    """

    size_hw: tuple[int, int]
    batch: int
    seed: int = 0
    vocabulary: int = 64
    drop_words: float = 0.25
    augmentation: AugmentSettings = field(default_factory=AugmentSettings)


class BatchStream(Dataset["Batch | DedosError"]):
    """Endless shuffled batches over several folders; item number `step` never changes.

    An unreadable file is returned as the error itself: a worker process cannot raise through the
    loader without wrapping the message in a traceback.
    """

    def __init__(self, folders: Sequence[LabelFolder], settings: BatchSettings) -> None:
        self.folders = tuple(folders)
        self.settings = settings
        self.words = union_words(folders)
        self._slots = {word: index for index, word in enumerate(self.words)}
        self._tables = [folder.lookup(self._slots) for folder in self.folders]
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    @property
    def epoch_items(self) -> int:
        """Images in one epoch, shares counted."""
        return sum(_shown(folder) for folder in self.folders)

    def __getitem__(self, step: int) -> Batch | DedosError:
        try:
            return self._make(step)
        except DedosError as error:
            return error

    def _make(self, step: int) -> Batch:
        settings = self.settings
        random = np.random.default_rng((settings.seed, 1, step))
        images, labels, owners = [], [], []
        for number in range(step * settings.batch, (step + 1) * settings.batch):
            owner, item = self._pick(number)
            image, raw = read_pair(self.folders[owner], item)
            pair = augment(image, self._tables[owner][raw], settings.size_hw,
                           settings.augmentation, random, outside=IGNORE)  # fmt: skip
            images.append(pair[0])
            labels.append(pair[1])
            owners.append(owner)
        return self._with_vocabulary(np.stack(images), np.stack(labels), owners, random)

    def _pick(self, number: int) -> tuple[int, int]:
        epoch, position = divmod(number, self.epoch_items)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        owner, item = self._epoch[1][position]
        return int(owner), int(item)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        """Return int64 [epoch_items, 2], the (folder, item) pairs of one epoch in order."""
        random = np.random.default_rng((self.settings.seed, 0, epoch))
        rows = []
        for owner, folder in enumerate(self.folders):
            items, shown = len(folder.items), _shown(folder)
            order = np.concatenate([random.permutation(items) for _ in range(-(-shown // items))])
            rows.append(np.stack([np.full(shown, owner), order[:shown]], axis=1))
        return random.permutation(np.concatenate(rows)).astype(np.int64)

    def _with_vocabulary(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], owners: list[int],
        random: np.random.Generator,
    ) -> Batch:  # fmt: skip
        known = np.zeros((len(owners), len(self.words)), dtype=bool)
        for row, owner in enumerate(owners):
            known[row, [self._slots[word] for word in self.folders[owner].annotated]] = True
        chosen = self._choose(
            np.any(known, axis=0, keepdims=True)[0], np.unique(labels[labels >= 0]), random
        )
        slot_of = np.full(len(self.words), OTHER, dtype=np.int64)
        slot_of[chosen] = np.arange(len(chosen))
        renamed = np.where(labels >= 0, slot_of[np.maximum(labels, 0)], labels)
        return Batch(
            torch.from_numpy(images),
            torch.from_numpy(renamed),
            tuple(int(word) for word in chosen),
            torch.from_numpy(np.ascontiguousarray(known[:, chosen])),
        )

    def _choose(
        self, candidates: NDArray[np.bool_], present: NDArray[np.int64], random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return the words of one batch: present ones first in rank, absent ones as negatives."""
        rank = random.random(len(self.words)) + 2.0 * ~candidates
        rank[present] -= 1.0
        order = np.argsort(rank)[: int(candidates.sum())]
        limit = min(self.settings.vocabulary, len(order))
        if random.random() < self.settings.drop_words and len(order) > 1:
            order = random.permutation(order)
            limit = min(limit, int(random.integers(1, len(order))))
        return np.sort(order[:limit]).astype(np.int64)


def batches(
    stream: BatchStream, *, start: int, stop: int, workers: int
) -> Generator[Batch, None, None]:
    """Yield batches start..stop-1 in order, made by `workers` processes ahead of the training step.

    workers: 0 makes them in this process. Raises the DedosError of an unreadable file.
    """
    loader: DataLoader[Batch | DedosError] = DataLoader(
        stream,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_quiet_worker,
    )
    for batch in loader:
        if isinstance(batch, DedosError):
            raise batch
        yield batch


def _quiet_worker(_worker: int) -> None:
    import signal

    import cv2

    # Ctrl-C reaches the whole process group: the training process alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _shown(folder: LabelFolder) -> int:
    return max(1, round(len(folder.items) * folder.share))
