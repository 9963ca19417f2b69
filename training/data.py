"""Batches as a pure function of (seed, step): what makes a resumed run repeat the first one.

A picture varies by its number in the run, and a step's words are drawn for all of its pictures: how a
step is cut into micro-batches, and who makes them, changes nothing about either."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dedos_deploy.errors import DedosError, listed
from dedos_deploy.interrupts import SIGNALS
from dedos_deploy.progress import Progress
from dedos_deploy.training.augment import AugmentSettings, Pixel, augment
from dedos_deploy.training.folders import LabelFolder, read_labels, read_pair, union_words
from dedos_deploy.training.kinds import Kind, Kinds
from dedos_deploy.training.paste import find_thing, paste
from dedos_deploy.training.rare import LEAST_SHOWN, rare_pictures
from dedos_deploy.training.replay import scene, scenes_of
from dedos_deploy.training.targets import IGNORE, OTHER


@dataclass(frozen=True)
class Batch:
    """Images of several data sets under one vocabulary."""

    images: Tensor
    """uint8 [B, H, W, 3] BGR."""
    labels: Tensor
    """int64 [B, H, W], slot, IGNORE or OTHER."""
    slots: tuple[int, ...]
    """Indices into the union vocabulary, one per slot K."""
    annotated: Tensor
    """bool [B, K]."""
    whole: Tensor | None = None
    """The same images as they are in their files, only resized, uint8 [B, h, w, 3] BGR; None unless
    the stream is asked for them."""
    keys: tuple[str, ...] = ()
    """One name per image of `whole`, made of its pixels."""
    scenes: Tensor | None = None
    """Procedural scenes beside the images, uint8 [R, H, W, 3] BGR; None for none."""

    # Between processes a batch goes through a pipe: torch would put its tensors into /dev/shm, which
    # has 64 MB in a container, and a worker that finds it full waits for ever.
    def __getstate__(self) -> dict[str, Any]:
        narrow = torch.int16 if len(self.slots) < 2**15 else torch.int32
        tensors = {**self.__dict__, "labels": self.labels.to(narrow)}
        return {n: v.numpy() if isinstance(v, Tensor) else v for n, v in tensors.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        found = {
            n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in state.items()
        }
        self.__dict__.update({**found, "labels": found["labels"].long()})


@dataclass(frozen=True)
class BatchSettings:
    """Shape and variety of batches."""

    size_hw: tuple[int, int]
    batch: int
    """Images of a micro-batch."""
    pieces: int = 1
    """Micro-batches of a step."""
    seed: int = 0
    vocabulary: int = 64
    """Most slots in a step; every class in the label files of its pictures comes first, absent ones
    fill up at random as negatives."""
    drop_words: float = 0.25
    """Probability that a step loses a random part of its words, pixels of lost classes becoming
    OTHER: users ask for "car,road" alone, too."""
    augmentation: AugmentSettings = field(default_factory=AugmentSettings)
    whole_hw: tuple[int, int] | None = None
    """Size of `Batch.whole`, None for none."""
    scenes: bool = False
    """Whether micro-batches bring the scenes of their pictures."""
    rare: float = 0.0
    """Part of the pictures that are drawn by a rare word in them, see rare.py."""
    paste: float = 0.0
    """Part of the pictures that are lent a rare thing of another one, see paste.py."""
    kinds: tuple[Kind, ...] = ()
    """Words that are a kind of another, see kinds.py."""


class BatchStream(Dataset["Batch | DedosError"]):
    """Endless shuffled micro-batches over several folders; item number n never changes.

    An unreadable file is returned as the error itself: a worker process cannot raise through the
    loader without wrapping the message in a traceback.
    """

    def __init__(self, folders: Sequence[LabelFolder], settings: BatchSettings) -> None:
        self.folders = tuple(folders)
        self.settings = settings
        self.words = union_words(folders)
        self._slots = {word: index for index, word in enumerate(self.words)}
        self._kinds = Kinds(settings.kinds, self.words)
        self._tables = [folder.lookup(self._slots) for folder in self.folders]
        draws = settings.rare or settings.paste
        self._rare = rare_pictures(folders, self.words) if draws else None
        self._epoch: tuple[int, NDArray[np.int64]] | None = None
        # A bit per item for "read", one for IGNORE, and one per word: 3 MB for COCO-Stuff, in every worker.
        self._seen = [
            np.zeros((len(folder.items), -(-(len(self.words) - OTHER) // 8)), np.uint8)
            for folder in folders
        ]

    def tell_undrawn(self, progress: Progress) -> None:
        """Warn of words that `rare` and `paste` never draw a picture by, since none shows enough of them."""
        undrawn = self._rare.undrawn(self.words) if self._rare is not None else ()
        if undrawn:
            files = sum(len(folder.items) for folder in self.folders)
            progress.warn(
                f"no picture is drawn by {len(undrawn)} of {len(self.words)} words, which fill less than "
                f"{LEAST_SHOWN} of each of the {files} label files: {listed(undrawn)}"
            )

    @property
    def epoch_items(self) -> int:
        """Images in one epoch, shares counted."""
        return sum(_shown(folder) for folder in self.folders)

    def __getitem__(self, number: int) -> Batch | DedosError:
        try:
            return self._make(number)
        except DedosError as error:
            return error

    def _make(self, number: int) -> Batch:
        settings = self.settings
        images, labels, owners, whole, keys = [], [], [], [], []
        for picture in range(number * settings.batch, (number + 1) * settings.batch):
            owner, item = self._pick(picture)
            image, raw = read_pair(self.folders[owner], item)
            named = self._tables[owner][raw]
            self._seen[owner][item] = self._bits(named)
            around = self._around(picture, named)
            pair = augment(
                *self._with_lent(picture, owner, image, named),
                settings.size_hw,
                settings.augmentation,
                np.random.default_rng((settings.seed, 1, picture)),
                outside=IGNORE,
                around=around,
            )
            images.append(pair[0])
            labels.append(pair[1])
            owners.append(owner)
            if settings.whole_hw is not None:
                whole.append(resized(image, settings.whole_hw))
                keys.append(image_key(image))
        chosen = self._vocabulary(number // settings.pieces)
        batch = self._with_vocabulary(np.stack(images), np.stack(labels), owners, chosen)
        batch = replace(batch, scenes=self._scenes(number))
        if not whole:
            return batch
        return replace(batch, whole=torch.from_numpy(np.stack(whole)), keys=tuple(keys))

    def _scenes(self, number: int) -> Tensor | None:
        settings = self.settings
        numbers = scenes_of(number * settings.batch, settings.batch) if settings.scenes else ()
        made = [
            scene(each, settings.size_hw, settings.augmentation, seed=settings.seed)
            for each in numbers
        ]
        return torch.from_numpy(np.stack(made)) if made else None

    def _vocabulary(self, step: int) -> NDArray[np.int64]:
        """Return the words of a step, drawn by what the label files of all its pictures hold."""
        random = np.random.default_rng((self.settings.seed, 3, step))
        pictures = self.settings.batch * self.settings.pieces
        picked = [self._pick(step * pictures + index) for index in range(pictures)]
        candidates = np.logical_or.reduce(self._known([owner for owner, _ in picked]))
        present = np.zeros(len(self.words), dtype=bool)
        if candidates.sum() > self.settings.vocabulary:
            present = np.logical_or.reduce([self._words_of(*pick) for pick in picked])
            for index, (owner, _) in enumerate(picked):
                lent = self._lent(step * pictures + index, owner)
                if lent is not None:
                    present[lent[2]] = True
        left = self._kinds.leave_out(candidates, random)
        return self._choose(candidates & ~left, present & ~left, random)

    def _words_of(self, owner: int, item: int) -> NDArray[np.bool_]:
        """Return bool [words], those in one label file, read for it at its first appearance elsewhere."""
        bits = self._seen[owner][item]
        if not bits.any():
            bits[:] = self._bits(self._tables[owner][read_labels(self.folders[owner], item)])
        return np.unpackbits(bits, count=len(self.words) - OTHER)[-OTHER:].astype(bool)

    def _bits(self, labels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the packed bits of one item: OTHER's, always set, then IGNORE's, then the words'."""
        # Counting, not sorting: a picture has a million pixels. IGNORE and OTHER are -1 and -2.
        held = np.bincount(labels.ravel() - OTHER, minlength=len(self.words) - OTHER) > 0
        held[0] = True
        return np.packbits(held)

    def _drawn(self, number: int) -> tuple[int, int, int] | None:
        """Return folder, item and word of a picture that is drawn by a rare word, None for another."""
        return self._by_chance(6, number, self.settings.rare)

    def _pick(self, number: int) -> tuple[int, int]:
        drawn = self._drawn(number)
        if drawn is not None:
            return drawn[:2]
        epoch, position = divmod(number, self.epoch_items)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        owner, item = self._epoch[1][position]
        return int(owner), int(item)

    def _around(self, picture: int, labels: NDArray[np.int64]) -> Pixel | None:
        drawn = self._drawn(picture)
        if drawn is None:
            return None
        random = np.random.default_rng((self.settings.seed, 7, picture))
        found = np.flatnonzero(labels == drawn[2])
        row, column = divmod(int(found[random.integers(len(found))]), labels.shape[1])
        return row, column

    def _lent(self, number: int, owner: int) -> tuple[int, int, int] | None:
        """Return folder, item and word of what is pasted into a picture of folder `owner`, None for nothing."""
        lent = self._by_chance(8, number, self.settings.paste)
        if lent is None or self.words[lent[2]] not in self.folders[owner].annotated:
            return None
        return lent

    def _by_chance(self, stream: int, number: int, part: float) -> tuple[int, int, int] | None:
        """Return folder, item and word of a picture drawn by a rare word, for this part of the numbers."""
        random = np.random.default_rng((self.settings.seed, stream, number))
        if self._rare is None or random.random() >= part:
            return None
        return self._rare.draw(random)

    def _with_lent(
        self, number: int, owner: int, image: NDArray[np.uint8], labels: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        lent = self._lent(number, owner)
        if lent is None:
            return image, labels
        random = np.random.default_rng((self.settings.seed, 9, number))
        other, raw = read_pair(self.folders[lent[0]], lent[1])
        thing = find_thing(other, self._tables[lent[0]][raw], lent[2], random)
        return (image, labels) if thing is None else paste(image, labels, thing, lent[2], random)

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
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        owners: list[int],
        chosen: NDArray[np.int64],
    ) -> Batch:
        known = self._known(owners)
        # IGNORE and OTHER are -1 and -2, so they index the two entries after the words.
        slot_of = np.full(len(self.words) + 2, OTHER, dtype=np.int64)
        slot_of[chosen] = np.arange(len(chosen))
        slot_of[IGNORE] = IGNORE
        renamed = slot_of[labels]
        self._kinds.join(renamed, labels, slot_of, known)
        return Batch(
            torch.from_numpy(images),
            torch.from_numpy(renamed),
            tuple(int(word) for word in chosen),
            torch.from_numpy(np.ascontiguousarray(known[:, chosen])),
        )

    def _known(self, owners: Sequence[int]) -> NDArray[np.bool_]:
        """Return bool [len(owners), words], which words the folders `owners` annotate."""
        known = np.zeros((len(owners), len(self.words)), dtype=bool)
        for row, owner in enumerate(owners):
            known[row, [self._slots[word] for word in self.folders[owner].annotated]] = True
        return known

    def _choose(
        self, candidates: NDArray[np.bool_], present: NDArray[np.bool_], random: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return the words of one step: present ones first in rank, absent ones as negatives."""
        rank = random.random(len(self.words)) + 2.0 * ~candidates
        rank[present] -= 1.0
        order = np.argsort(rank)[: int(candidates.sum())]
        limit = min(self.settings.vocabulary, len(order))
        if random.random() < self.settings.drop_words and len(order) > 1:
            order = random.permutation(order)
            limit = min(limit, int(random.integers(1, len(order))))
        return np.sort(order[:limit]).astype(np.int64)


def image_key(image_bgr: NDArray[np.uint8]) -> str:
    """Return a name made of the shape and pixels of an image: moved or copied files keep theirs."""
    digest = hashlib.blake2b(repr(image_bgr.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image_bgr).data)
    return digest.hexdigest()


def resized(image_bgr: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the image at `size_hw`, averaged over area where it shrinks."""
    import cv2

    height, width = image_bgr.shape[:2]
    shrinks = height > size_hw[0] and width > size_hw[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    out = cv2.resize(image_bgr, (size_hw[1], size_hw[0]), interpolation=method)
    return np.asarray(out, dtype=np.uint8)


@dataclass(frozen=True)
class Share:
    """Which micro-batches a process makes: of every step's `step` ones, `first`, `first + by`, ..."""

    start: int
    """First step."""
    stop: int
    """The step after the last."""
    step: int = 1
    first: int = 0
    by: int = 1

    def __iter__(self) -> Iterator[int]:
        for number in range(self.start, self.stop):
            yield from range(number * self.step + self.first, (number + 1) * self.step, self.by)


def batches(stream: BatchStream, share: Share, *, workers: int) -> Generator[Batch, None, None]:
    """Yield the micro-batches of `share` in order, made by `workers` processes ahead of training.

    workers: 0 makes them in this process. Raises the DedosError of an unreadable file.
    """
    loader: DataLoader[Batch | DedosError] = DataLoader(
        stream,
        batch_size=None,
        sampler=share,
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

    # Ctrl-C reaches the whole process group, and so does a batch system's SIGTERM: the training
    # process alone decides what they mean. It ends this one through a queue, and so does its death.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _shown(folder: LabelFolder) -> int:
    return max(1, round(len(folder.items) * folder.share))
