"""The total objective L_total = L_seg + gamma L_consist (Eq. 16), micro-batch by micro-batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dedos_deploy.model import Dedos
from dedos_deploy.model.detail_branch import DetailBranch
from dedos_deploy.model.word_embeddings import WordEmbeddings
from dedos_deploy.training.data import Batch
from dedos_deploy.training.denoising import DenoisingLearning, Learned
from dedos_deploy.training.diffusion.walker import LabelWalker, Walker
from dedos_deploy.training.keep import Keeper, Logits
from dedos_deploy.training.losses import Outputs, Totals, count_labels, segmentation_loss
from dedos_deploy.training.settings import TrainSettings


@dataclass(frozen=True)
class Loss:
    """Part of a step's loss that one micro-batch contributes."""

    total: Tensor
    """Scalar with gradient."""
    terms: dict[str, Tensor]
    """The loss's detached parts by name."""
    stages: Tensor | None
    """Q_{L,t} summed over the micro-batch's images, [N, n, c], None when the step used the bank."""


class Objective:
    """Computes losses for a model and what it learns from the diffusion.

    learning, walker: both None for a run without diffusion, whose proxy queries are the bank's own;
    word_weights: float32, one per word of `embeddings` (see balance.py), None for 1; keeper: None for
    a run that may forget what it started from.
    """

    def __init__(
        self,
        settings: TrainSettings,
        model: Dedos,
        embeddings: WordEmbeddings,
        learning: DenoisingLearning | None,
        walker: Walker | LabelWalker | None,
        word_weights: Tensor | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.word_weights, self.keeper = word_weights, keeper
        self.settings, self.model, self.embeddings = settings, model, embeddings
        self.learning, self.walker = learning, walker

    def reads_diffusion(self, step: int) -> bool:
        """Whether `step` reads the diffusion, or trains the decoder with the bank's queries.

        The same in all processes and after a resume: drawn from (seed, step).
        """
        if self.walker is None:
            return False
        random = np.random.default_rng((self.settings.seed, 2, step))
        return bool(random.random() >= self.settings.bank_drop)

    def totals(self, batch: Batch) -> Totals:
        """Return what this micro-batch adds to the denominators of the step."""
        return count_labels(batch.labels, batch.annotated)

    def __call__(self, batch: Batch, totals: Totals, *, denoise: bool, seed: int) -> Loss:
        """Return the loss of one micro-batch.

        totals: of the whole step; denoise: read the diffusion; seed: of the first image's noise,
        the next ones have the next.
        """
        device = self.model.proxy_queries.bank.device
        slots = batch.slots
        if self.keeper is not None:
            slots = self.keeper.slots(batch, self._step(seed))
        text = self.embeddings(slots)
        valid = torch.ones(len(text), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(self.settings.amp)):
            proxy, learned = self._queries(batch, denoise, seed)
            found = self.model.predict(batch.images.to(device), text, valid, proxy)
        last = found.class_logits, found.mask_logits
        # What is asked for beside the batch's words is annotated nowhere, so no term here sees it.
        others = batch.annotated.new_zeros(len(batch.images), len(slots) - len(batch.slots))
        total, terms = segmentation_loss(
            Outputs((*found.auxiliary, last), found.dense_logits),
            batch.labels.to(device),
            torch.cat([batch.annotated, others], dim=1).to(device),
            self.settings.loss,
            totals,
            None if self.word_weights is None else self.word_weights[list(slots)],
        )
        if self.keeper is not None:
            kept = self._kept(self.keeper, batch, slots, last, self._step(seed))
            total = total + self.settings.keep_weight * kept
            terms["keep"] = kept.detach()
        if learned is None:
            return Loss(total, terms, None)
        if learned.consistency is not None:
            consistency = learned.consistency.float().sum() / totals.images
            total = total + self.settings.gamma * consistency
            terms["consist"] = consistency.detach()
        return Loss(total, terms, learned.stages.detach().float().sum(0))

    def _step(self, seed: int) -> int:
        return seed // self.settings.batch

    def _kept(
        self, keeper: Keeper, batch: Batch, slots: tuple[int, ...], found: Logits, step: int
    ) -> Tensor:
        """Return this micro-batch's part of L_keep (see keep.py); found: what the model says of it."""
        kept = keeper.on_pictures(found, batch, slots)
        if batch.scenes is not None:
            scenes = batch.scenes.to(kept.device)
            kept = kept + keeper.on_scenes(self._answer(scenes, slots), scenes, slots)
        return kept / keeper.pictures(step)

    def _answer(self, images: Tensor, slots: tuple[int, ...]) -> Logits:
        """Return what the model says of `images` with the queries that it is deployed with."""
        model, text = self.model, self.embeddings(slots)
        valid = torch.ones(len(text), device=text.device)
        proxy = None
        if self.learning is not None:
            proxy = self.learning.bank_queries(model, self.settings.bank)
        detail = model.detail if isinstance(model.detail, DetailBranch) else None
        training = detail is not None and detail.training
        if detail is not None:
            # Its running statistics are of the data alone.
            detail.eval()
        with torch.autocast(text.device.type, torch.bfloat16, enabled=bool(self.settings.amp)):
            features = model.image_features(images, proxy)
            objects, masks = model.objects_of(features, text, valid)
            classes = model.text_aggregation(objects, text, valid)
        if detail is not None:
            detail.train(training)
        return classes, masks

    def _queries(
        self, batch: Batch, denoise: bool, seed: int
    ) -> tuple[Tensor | None, Learned | None]:
        if self.learning is None or self.walker is None:
            return None, None
        if not denoise:
            return self.learning.bank_queries(self.model, self.settings.bank), None
        walked = self.walker(batch, seed)
        learned = self.learning(self.model, walked.features, walked.before, walked.after)
        return learned.queries, learned
