"""What the weights of a start knew, kept while the model learns something else, without their data.

Learning without forgetting (Li and Hoiem, ECCV 2016): a frozen copy of the start looks at the pictures
of every step, and the model is asked to go on answering as it does for words that the new labels do not
know. A word that they do know is theirs alone. With T[k] the score that the start gives word k at a
cell and S[k] the model's own, unclipped, both asked for the same list of words,

    l = sum over k of  T[k] (log(sum over j of S[j]) - log S[k])
                       - T[k] log min(S[k], 1)  -  (1 - T[k]) log(1 - S[k])

which is `score_loss` with soft targets. Its first line keeps the order of words, as the distillation of
that paper does at temperature 1; the second keeps every score by itself, for thresholds. Both are least
where S = T, so a run begins at the least value. (log(1 - S) goes on as a straight line above 0.9.)

l is averaged over the cells of two kinds of pictures:

- the new ones, for words that their folder does not annotate. What is labelled with a word that the
  start did not know is left out: what it said there it said for want of the right word (the shift of
  the background of Cermelli et al., CVPR 2020);
- procedural scenes of this package, streets and halls in turn, one for two new pictures, for all words
  of the step that the start knew. They stand in for what it learned from, which others replay (Castro
  et al., ECCV 2018): on pictures of roads alone a hall's words would only learn to be absent.

The record of such a run names the words of its own labels and those that were kept: who keeps what it
knows keeps all of them.

BatchNorm, which the detail branch of the edge presets and `miniature` has, goes on with the statistics
of the weights that a run begins with: those of the new pictures would both answer old ones with another
scale and put the model beside the start, which has its own, before the first step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.files import read_regular
from dedos_deploy.model import Dedos, load_checkpoint
from dedos_deploy.model.blocks import fused_attention
from dedos_deploy.model.detail_branch import DetailBranch
from dedos_deploy.model.word_embeddings import WordEmbeddings
from dedos_deploy.presets import DENSE_PRESETS
from dedos_deploy.training.data import Batch
from dedos_deploy.training.losses import Totals, score_loss
from dedos_deploy.training.replay import SCENES_CREDIT, scenes_of
from dedos_deploy.training.settings import TrainSettings
from dedos_deploy.training.setup import EMBEDDED, checkpoint_path, inherited_credits
from dedos_deploy.training.targets import MaskTargets, mask_targets

DEMO = "demo"
"""What `keep` calls the weights of the bundle of that name."""

Logits = tuple[Tensor, Tensor]
"""Class logits [B, Q, K] and mask logits [B, Q, h, w]."""


class Keeper:
    """The frozen start of a run, and the loss that keeps what it knew.

    settings: of the run, `keep` names the checkpoint; stream_words: those of the run's folders, which
    come first in `words`.

    Raises BadInputError for a checkpoint that cannot be read or does not say what it knows.
    """

    def __init__(
        self, settings: TrainSettings, stream_words: Sequence[str], device: torch.device
    ) -> None:
        path = checkpoint_path(EMBEDDED if settings.keep == DEMO else str(settings.keep))
        model, record = load_checkpoint(path)
        model.config.check_size(settings.network_hw)
        learned = _learned_words(path, record)
        self.credits = [*inherited_credits(record), SCENES_CREDIT]
        self.settings = settings
        self.start: Dedos = model.to(device).eval().requires_grad_(False)
        self.fingerprint = hashlib.sha256(read_regular(path)).hexdigest()
        self.words = tuple(dict.fromkeys([*stream_words, *learned]))
        self._others = np.arange(len(stream_words), len(self.words))
        self._knew = torch.tensor([word in set(learned) for word in self.words], device=device)
        self._embeddings = WordEmbeddings(
            self.start, self.words, template=settings.template, tuned=False
        )

    def hold_statistics(self, model: Dedos) -> None:
        """Let BatchNorm of `model` use its running statistics, unless those are of no picture yet."""
        learned = bool(self.settings.init) and self.settings.init not in DENSE_PRESETS
        if learned and isinstance(model.detail, DetailBranch):
            model.detail.eval()

    def slots(self, batch: Batch, step: int) -> tuple[int, ...]:
        """Return the words to ask for in a step: the batch's, then others that the start knew.

        As many as `vocabulary` has room for; sometimes, as with `drop_words`, only some or none.
        """
        random = np.random.default_rng((self.settings.seed, 5, step))
        room = max(0, self.settings.vocabulary - len(batch.slots))
        if random.random() < self.settings.drop_words:
            room = min(room, int(random.integers(len(self._others) + 1)))
        drawn = np.sort(random.permutation(self._others)[:room])
        return (*batch.slots, *(int(word) for word in drawn))

    def on_pictures(self, found: Logits, batch: Batch, slots: tuple[int, ...]) -> Tensor:
        """Return the sum of l, averaged over cells, over the batch's own pictures.

        found: what the model says of them under `slots`.
        """
        device = found[0].device
        knew = self._knew[list(slots)]
        annotated = torch.zeros(len(batch.images), len(slots), dtype=torch.bool, device=device)
        annotated[:, : len(batch.slots)] = batch.annotated.to(device)
        asked = knew & ~annotated
        if not bool(asked.any()):
            return found[0].new_zeros(())
        weight = torch.ones(len(batch.images), *found[1].shape[2:], device=device)
        if not bool(knew[: len(batch.slots)].all()):
            labelled = mask_targets(batch.labels.to(device), annotated, _grid(found))
            unknown = (annotated & ~knew)[:, :, None, None]
            weight = 1 - (labelled.coverage * unknown).sum(1) * labelled.weight
        return self._loss(found, batch.images.to(device), slots, asked, weight)

    def on_scenes(self, found: Logits, scenes: Tensor, slots: tuple[int, ...]) -> Tensor:
        """Return the sum of l over `scenes`, uint8 [R, H, W, 3], as `on_pictures`."""
        asked = self._knew[list(slots)].expand(len(scenes), -1)
        weight = torch.ones(len(scenes), *found[1].shape[2:], device=found[0].device)
        return self._loss(found, scenes, slots, asked, weight)

    def _loss(
        self,
        found: Logits,
        images: Tensor,
        slots: tuple[int, ...],
        asked: Tensor,
        weight: Tensor,
    ) -> Tensor:
        with torch.no_grad(), fused_attention():
            text = self._embeddings(slots)
            valid = torch.ones(len(text), device=text.device)
            with torch.autocast(text.device.type, torch.bfloat16, enabled=bool(self.settings.amp)):
                scores = self.start.scores(images, text, valid)
        targets = MaskTargets(scores.float(), weight, asked)
        return score_loss(found[0].float(), found[1].float(), targets, Totals(1.0, 0.0, 1.0, 1.0))

    def pictures(self, step: int) -> int:
        """Return over how many pictures, scenes included, the loss of `step` is averaged."""
        batch = self.settings.batch
        return batch + len(scenes_of(step * batch, batch))


def _grid(found: Logits) -> tuple[int, int]:
    return found[1].shape[-2], found[1].shape[-1]


def _learned_words(path: Path, record: dict[str, Any]) -> tuple[str, ...]:
    words = record.get("words")
    if not words or not isinstance(words, list) or not all(isinstance(w, str) for w in words):
        raise BadInputError(
            f"checkpoint {path} does not say which words it learned, so nothing of it can be kept; give "
            f"--keep a checkpoint that dedos-train wrote, or {DEMO!r}"
        )
    return tuple(words)
