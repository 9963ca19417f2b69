"""The total objective L_total = L_seg + gamma L_consist (Eq. 16), micro-batch by micro-batch.

Other uses of the diffusion add their own term: L_predict (prediction.py) or L_distil (distillation.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dedos_deploy.model import Dedos
from dedos_deploy.model.dedos import Predictions
from dedos_deploy.model.detail_branch import DetailBranch
from dedos_deploy.model.word_embeddings import WordEmbeddings
from dedos_deploy.training.components import COMPONENTS
from dedos_deploy.training.data import Batch
from dedos_deploy.training.denoising import Learned
from dedos_deploy.training.diffusion.walker import LabelWalker, Walked, Walker
from dedos_deploy.training.distillation import distillation_loss
from dedos_deploy.training.keep import Keeper, Logits
from dedos_deploy.training.losses import Outputs, Totals, count_labels, segmentation_loss
from dedos_deploy.training.prediction import AnyLearning, FeaturePrediction
from dedos_deploy.training.settings import TrainSettings


@dataclass(frozen=True)
class Loss:
    """Part of a step's loss that one micro-batch contributes."""

    total: Tensor
    """Scalar with gradient."""
    terms: dict[str, Tensor]
    """The loss's detached parts by name."""
    stages: Tensor | None
    """Q_{L,t} summed over the micro-batch's images, [N, n, c], None when the step used the bank. Of M
    sets [M, N, n, c], every image by its weights."""
    shares: Tensor | None = None
    """Those weights of M sets summed over the images, [M]; None for one set."""


@dataclass(frozen=True)
class _Asked:
    """What the model is asked with in one step, and what was read for it."""

    proxy: Tensor | None
    start: Tensor | None = None
    learned: Learned | None = None
    walked: Walked | None = None


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
        learning: AnyLearning | None,
        walker: Walker | LabelWalker | None,
        word_weights: Tensor | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.word_weights, self.keeper = word_weights, keeper
        self.settings, self.model, self.embeddings = settings, model, embeddings
        self.learning, self.walker = learning, walker
        self.teaches = COMPONENTS[settings.component].use == "clip"

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
        slots, step = batch.slots, seed // self.settings.batch
        if self.keeper is not None:
            self.keeper.hold_statistics(self.model)
            slots = self.keeper.slots(batch, step)
        text = self.embeddings(slots)
        valid = torch.ones(len(text), device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(self.settings.amp)):
            asked = self._queries(batch, denoise, seed)
            found = self.model.predict(
                batch.images.to(device), text, valid, asked.proxy, asked.start
            )
            further = self._further(batch, asked, found)
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
            kept = self._kept(self.keeper, batch, slots, text, last) / self.keeper.pictures(step)
            total = total + self.settings.keep_weight * kept
            terms["keep"] = kept.detach()
        for name, (weight, values) in further.items():
            term = values.float().sum() / totals.images
            total = total + weight * term
            terms[name] = term.detach()
        return Loss(total, terms, *_summed(asked.learned, found.set_weights))

    def _kept(
        self, keeper: Keeper, batch: Batch, slots: tuple[int, ...], text: Tensor, found: Logits
    ) -> Tensor:
        """Return the sum of l over this micro-batch (see keep.py); text: rows of `slots`; found: what the
        model says of its pictures."""
        kept = keeper.on_pictures(found, batch, slots)
        if batch.scenes is None:
            return kept
        scenes = batch.scenes.to(kept.device)
        return kept + keeper.on_scenes(self._answer(scenes, text), scenes, slots)

    def _answer(self, images: Tensor, text: Tensor) -> Logits:
        """Return what the model says of `images` with the queries that it is deployed with."""
        model = self.model
        valid = torch.ones(len(text), device=text.device)
        proxy = None
        if self.learning is not None and not isinstance(self.learning, FeaturePrediction):
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

    def _queries(self, batch: Batch, denoise: bool, seed: int) -> _Asked:
        if self.learning is None or self.walker is None:
            return _Asked(None)
        walked = self.walker(batch, seed) if denoise else None
        if isinstance(self.learning, FeaturePrediction):
            return _Asked(None, walked=walked)
        bank = None
        if walked is None or self.teaches:
            bank = self.learning.bank_queries(self.model, self.settings.bank)
        if walked is None:
            return _Asked(bank)
        learned = self.learning(self.model, walked.features, walked.before, walked.after)
        return _Asked(learned.queries, bank, learned, walked)

    def _further(
        self, batch: Batch, asked: _Asked, found: Predictions
    ) -> dict[str, tuple[float, Tensor]]:
        """Return weight and values [B] of every term that the diffusion adds to L_seg, by name."""
        terms: dict[str, tuple[float, Tensor]] = {}
        if asked.walked is None:
            return terms
        if isinstance(self.learning, FeaturePrediction):
            patch = self.model.config.clip.patch
            grid_hw = (batch.images.shape[1] // patch, batch.images.shape[2] // patch)
            predicted = self.learning(found.tokens, grid_hw, asked.walked.features)
            terms["predict"] = (self.settings.predict_weight, predicted)
        if asked.learned is not None and asked.learned.consistency is not None:
            terms["consist"] = (self.settings.gamma, asked.learned.consistency)
        if asked.learned is not None and asked.start is not None:
            left = distillation_loss(found.read, asked.learned.queries, asked.start)
            terms["distil"] = (self.settings.distil_weight, left)
        return terms


def _summed(learned: Learned | None, weights: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return `Loss.stages` and `Loss.shares`."""
    if learned is None:
        return None, None
    stages = learned.stages.detach().float()
    if weights is None:
        return stages.sum(0), None
    g = weights.detach().float()
    return (stages * g[..., None, None, None]).sum(0), g.sum(0)
