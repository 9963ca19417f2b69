"""Table 3 in miniature: one run per component and seed, scored on base and novel words apart."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dedos_deploy.evaluation.result import EvaluationResult
from dedos_deploy.files import write_atomically
from dedos_deploy.model import Dedos
from dedos_deploy.model.dedos import ImageFeatures
from dedos_deploy.model.proxy_queries import BankFill
from dedos_deploy.model.word_embeddings import WordEmbeddings
from dedos_deploy.training.bank import Denoiser
from dedos_deploy.training.calibration import (
    Run,
    calibrate_run,
    fill_run,
    open_run,
    run_diffusion,
)
from dedos_deploy.training.diffusion.walker import LabelWalker
from dedos_deploy.training.evaluate import Queries, evaluate_scores, network_input
from dedos_deploy.training.folders import (
    LabelFolder,
    open_folder,
    read_labels,
    read_pair,
    union_words,
)
from dedos_deploy.training.loop import Trainer
from dedos_deploy.training.miniature.plan import MiniaturePlan, Row, plan_from_json
from dedos_deploy.training.pretraining.scenes import BASE_WORDS, NOVEL_WORDS
from dedos_deploy.training.settings import TrainSettings, settings_for
from dedos_deploy.training.setup import LABELS
from dedos_deploy.training.targets import IGNORE

RESULT = "result.json"
REFINED_IMAGES = 16
BANK_FILLS: tuple[BankFill, ...] = get_args(BankFill)
FILLS = (*BANK_FILLS, "live")
"""Fillings of the bank, and what none can be: every picture's own queries, the diffusion kept."""


@dataclass(frozen=True)
class Places:
    """Where what the runs read lies."""

    base: Path
    """Label folder of base words."""

    everything: Path
    """Label folder of all words."""

    clip: Path
    """CLIP checkpoint."""

    diffusion: Path
    """Diffusion folder."""

    cache: Path
    """Cache of the diffusion. The runs share it: the diffusion reads whole images, so latents and
    denoised images are computed once in all, not once a run."""


@dataclass(frozen=True)
class Score:
    """miou_present when every word was asked for; a novel word competes with the base words that
    masks taught."""

    all: float
    """Over all words."""

    base: float
    """Over base words."""

    novel: float
    """Over novel words."""

    novel_alone: float
    """miou_present when only novel words were asked for, on their own pixels."""

    iou: dict[str, float | None]
    """IoU of each word."""


@dataclass(frozen=True)
class RunResult:
    """The result of one run."""

    component: str
    seed: int
    score: Score
    """Score with the bank that the run ships."""

    fillings: dict[str, Score]
    """Score with every filling, where the run has several."""

    refined: float | None
    """How far the proxy queries move CLIP's last patch tokens, as a part of their length; None
    for a row without them."""

    seconds: float
    final_loss: float | None
    """Mean loss of the last steps; None for a run that had ended when it was last resumed."""


def run_settings(plan: MiniaturePlan, places: Places, name: str, seed: int) -> TrainSettings:
    """Return the settings of one run; all rows of a seed see the same batches."""
    row = Row.named(name)
    parts = row.parts
    # Only whole pictures are cached, and what is predicted must lie where it is predicted.
    crop = parts.use == "predict"
    return settings_for(
        "miniature",
        (str(places.base),),
        size_hw=plan.size_hw,
        steps=plan.steps,
        batch=plan.batch,
        lr=plan.lr,
        backbone_lr=plan.backbone_lr,
        muon=plan.muon,
        warmup=max(1, plan.steps // 20),
        # Shorter memory than the default's 500 steps: a run has a few hundred.
        ema=0.99,
        seed=seed,
        clip_weights=str(places.clip),
        component=row.component,
        diffusion=str(places.diffusion) if parts.walks else None,
        diffusion_cache=str(places.cache) if parts.walks and not crop else None,
        view="crop" if crop else None,
        gamma=(row.gamma or plan.gamma) if parts.separation else None,
        bank_drop=plan.bank_drop if parts.learns or parts.walks else None,
        eval_minutes=0.0,
        samples=0,
        workers=0,
        threads=1,
        device="cpu",
    )


class _Last:
    """Keeps the mean loss of the last steps."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_step(self, report: object) -> None:
        self.losses.append(report.loss)  # type: ignore[attr-defined]

    def on_evaluation(self, result: EvaluationResult) -> None: ...

    @property
    def mean(self) -> float | None:
        tail = self.losses[-20:]
        return sum(tail) / len(tail) if tail else None


def run_component(
    plan: MiniaturePlan, places: Places, component: str, seed: int, output: Path
) -> RunResult:
    """Train and score one row of the table under one seed; writes `output`/result.json."""
    started, last = time.monotonic(), _Last()
    settings = run_settings(plan, places, component, seed)
    trainer = Trainer(settings, output, resume=(output / "state.safetensors").exists())
    trainer.train(last)
    fillings, refined = score_run(plan, places, output)
    shipped = "ema" if "ema" in fillings else "static"
    result = RunResult(
        component,
        seed,
        fillings[shipped],
        fillings if len(fillings) > 1 else {},
        refined,
        round(time.monotonic() - started, 1),
        last.mean,
    )
    write_atomically(
        output / RESULT, (json.dumps(asdict(result), indent=1, allow_nan=False) + "\n").encode()
    )
    (output / "state.safetensors").unlink(missing_ok=True)
    return result


def score_run(
    plan: MiniaturePlan, places: Places, output: Path
) -> tuple[dict[str, Score], float | None]:
    """Return the score of every filling that the run can have, and `refined_part` as shipped.

    `live`, what the pictures' own queries would give, shows what leaving the diffusion out costs.
    """
    run = open_run(output)
    folder = open_folder(str(places.everything), split="val")
    scored = _scorer(run, folder, plan.size_hw)
    images = [read_pair(folder, item)[0] for item in range(min(REFINED_IMAGES, len(folder.items)))]
    refined = refined_part(run.model, torch.cat([network_input(i, plan.size_hw) for i in images]))
    if run.learning is None:
        return {FILLS[0]: scored()}, refined
    return _score_fillings(plan, places, run, folder, scored), refined


class _Scored(Protocol):
    """Returns the score of a run with the bank that it has, or with queries of the pictures' own."""

    def __call__(self, queries: Queries | None = None) -> Score: ...


def _scorer(run: Run, folder: LabelFolder, size_hw: tuple[int, int]) -> _Scored:
    """Return what scores a run on `folder`, under all of its words and under novel words alone."""
    words = folder.annotated
    # Base words as background words: neither asked for nor counted.
    alone = replace(
        folder, background=IGNORE, words=tuple(w if w in NOVEL_WORDS else None for w in words)
    )
    embeddings = WordEmbeddings(run.model, words, template="single", tuned=False)
    run.model.eval()

    def scored(queries: Queries | None = None) -> Score:
        asked = AskedTwice(run.model, size_hw, queries)
        found, novel = (
            asked.evaluated(among, embeddings([words.index(word) for word in among.annotated]))
            for among in (folder, alone)
        )
        return score_of(found, novel)

    return scored


def _score_fillings(
    plan: MiniaturePlan, places: Places, run: Run, folder: LabelFolder, scored: _Scored
) -> dict[str, Score]:
    """Return the score with every filling that a run which learns from a walk can have."""
    seen = open_folder(str(places.base), split="train")
    live: Queries
    if run.require_learning()[1].fingerprint == LABELS:
        live, calibrated = LabelQueries(run, folder, union_words([seen])), None
    else:
        diffusion = run_diffusion(run)
        calibrated = calibrate_run(run, diffusion, [seen], plan.calibration)
        live = LiveQueries(run, diffusion)
    scores: dict[str, Score] = {}
    for fill in BANK_FILLS:
        if fill != "calibrated" or calibrated is not None:
            fill_run(run, fill, calibrated)
            scores[fill] = scored()
    scores["live"] = scored(live)
    return scores


class AskedTwice:
    """Pictures labelled under two lists of words: what the words have no part in is computed once.

    queries: as `evaluate` takes them. About 1.2 MB a picture is kept between the two.
    """

    def __init__(self, model: Dedos, size_hw: tuple[int, int], queries: Queries | None) -> None:
        self.model, self.size_hw, self.queries = model, size_hw, queries
        self._kept: dict[int, ImageFeatures] = {}

    @torch.no_grad()
    def evaluated(self, folder: LabelFolder, text: Tensor) -> EvaluationResult:
        """Return what `evaluate` returns for the words of `folder`, text [K, D]; the same pictures twice."""
        valid = torch.ones(len(text), device=text.device)

        def scores(item: int, image_bgr: NDArray[np.uint8]) -> Tensor:
            features = self._kept.pop(item, None)
            if features is None:
                proxy = self.queries(item, image_bgr) if self.queries is not None else None
                image = network_input(image_bgr, self.size_hw).to(text.device)
                features = self._kept[item] = self.model.image_features(image, proxy)
            return self.model.scores_of(features, text, valid)

        return evaluate_scores(folder, scores)


class LiveQueries:
    """Every picture's own queries (Eq. 3-8), kept by its index so that each is walked once."""

    def __init__(self, run: Run, diffusion: Denoiser) -> None:
        self.model, self.diffusion = run.model, diffusion
        self.learning, _ = run.require_learning()
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, item: int, image_bgr: NDArray[np.uint8]) -> Tensor:
        """Return Q, [1, n, c], of picture number `item`."""
        if item not in self._kept:
            walked = self.diffusion.denoise(
                self.diffusion.encode(torch.from_numpy(image_bgr)[None])
            )
            self._kept[item] = self.learning(self.model, walked.features).queries
        return self._kept[item]


class LabelQueries:
    """Every picture's own queries read from its true labels (`oracle`)."""

    def __init__(self, run: Run, folder: LabelFolder, words: Sequence[str]) -> None:
        self.model, self.folder = run.model, folder
        self.learning, _ = run.require_learning()
        self.walker = LabelWalker(len(words), run.model.config.steps, run.device)
        slots = {word: index for index, word in enumerate(words)}
        none = len(words)
        known = [slots.get(word, none) if word else none for word in folder.words]
        self._word_of = np.full(2**16, none, np.int64)
        self._word_of[: len(known)] = known

    @torch.no_grad()
    def __call__(self, item: int, image_bgr: NDArray[np.uint8]) -> Tensor:
        """Return Q, [1, n, c], of picture number `item`."""
        labels = self._word_of[read_labels(self.folder, item)]
        features = self.walker.features(torch.from_numpy(labels)[None])
        return self.learning(self.model, features).queries  # type: ignore[no-any-return]


@torch.no_grad()
def refined_part(model: Dedos, images: Tensor) -> float | None:
    """Return |f̂ - f| / |f| over the last block's patch tokens, with the bank's queries.

    images: uint8 [B, H, W, 3]. None for a model without refinement.
    """
    if not model.config.refine_blocks:
        return None
    plain = model.trunk.plain_features(images, model.taps)[-1]
    moved = model.refined_tokens(images)[-1]
    return float((moved - plain).norm() / plain.norm())


def score_of(found: EvaluationResult, alone: EvaluationResult) -> Score:
    """Return the means over word groups of an evaluation over all words and one of novel words.

    A word that no label shows is left out of the means, as in miou_present.
    """
    iou = dict(zip(found.classes, found.iou, strict=True))
    return Score(
        found.miou_present,
        _mean([iou.get(word) for word in BASE_WORDS]),
        _mean([iou.get(word) for word in NOVEL_WORDS]),
        alone.miou_present,
        iou,
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def read_result(path: Path) -> RunResult:
    """Return the result that `run_component` wrote."""
    values = json.loads(path.read_text(encoding="utf-8"))
    values["score"] = Score(**values["score"])
    values["fillings"] = {name: Score(**score) for name, score in values["fillings"].items()}
    return RunResult(**values)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one component under one seed; the miniature starts this once per run."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("plan", "places", "component", "output"):
        parser.add_argument(name)
    parser.add_argument("seed", type=int)
    args = parser.parse_args(argv)
    places = Places(**{name: Path(value) for name, value in json.loads(args.places).items()})
    plan = plan_from_json(args.plan)
    run_component(plan, places, args.component, args.seed, Path(args.output))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
