"""What both nano recipes share: from raw material to a checkpoint, one finished command after another.

Every part does what a command does (`dedos-train text`, `pseudo-labels`, `trunk`, `diffusion`, and
training itself) and is skipped when its result is there, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch

from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.evaluation.result import EvaluationResult
from dedos_deploy.interrupts import EXIT_INTERRUPTED
from dedos_deploy.progress import Progress
from dedos_deploy.scenes import class_names, render_image
from dedos_deploy.threads import usable_threads
from dedos_deploy.training.logs import StepReport
from dedos_deploy.training.loop import RESULT, STATE, Trainer
from dedos_deploy.training.pretraining.diffusion_settings import NanoSettings
from dedos_deploy.training.pretraining.pseudo_labels import (
    LabelRules,
    complete_folder,
    read_frames,
    write_credits,
    write_overlays,
    write_pseudo_labels,
)
from dedos_deploy.training.pretraining.small_diffusion import pretrain_diffusion
from dedos_deploy.training.pretraining.teachers import WORD_LISTS, OnnxTeacher
from dedos_deploy.training.pretraining.text import DistilSettings, run_text
from dedos_deploy.training.pretraining.trunk_distillation import lasting, settings_record
from dedos_deploy.training.pretraining.trunk_patches import TrunkSettings
from dedos_deploy.training.pretraining.trunk_run import TrunkRun, distil_trunk
from dedos_deploy.training.recipes.nano_sets import (
    CITY_CREDIT,
    NETS,
    PSEUDO_SETS,
    SCENES,
    VOC_CREDIT,
    PseudoSet,
)
from dedos_deploy.training.replay import SCENES_CREDIT
from dedos_deploy.training.settings import TrainSettings, settings_for
from dedos_deploy.training.state import saved_settings

LOOKED_AT_PX, WRITTEN_PX, OVERLAYS = 641, 640, 12
"""The longest side that a teacher looks at unless a set says more, the longest one of pictures that are written,
and pictures in overlays.png."""

RULES = "rules.txt"
"""File of a set that teachers labelled, with how."""

VAL_SCENES = 40
"""Scenes of each kind that nothing learns from."""

LOG_EVERY = 50
"""Steps of training between two lines of the log."""

_LOG = logging.getLogger(__name__)


RATES: Mapping[str, Any] = {
    "lr": 1e-3,
    "backbone_lr": 3e-4,
    "muon": 0.003,
    "drop_words": 0.1,
}
"""A distilled trunk goes on more slowly than a head that starts from nothing."""

BANK_DROP = 0.75
"""Part of the steps that do not read the diffusion."""

FINE: Mapping[str, Any] = {
    "size_hw": (288, 384),
    "balance": 0.4,
    "lr": 5e-4,
    "backbone_lr": 1.5e-4,
    "muon": 0.0015,
    "warmup": 20,
    "ema": 0.99,
}
"""How a trained model goes on: larger pictures, rare words weighed more, smaller steps."""


CONTINUED: Mapping[str, Any] = {
    **FINE,
    "size_hw": (352, 480),
    "rare": 0.5,
    "paste": 0.3,
    "kinds": ("cyclist=person",),
    "warmup": 50,
    "ema": 0.998,
}
"""How the embedded model goes on for hours: larger pictures again, half of them drawn by rare words, three
in ten with a thing of another one."""

BALANCED = 0.8
"""Exponent of the weights of rare words in the last part."""

DARKEN = 3.5
"""Most stops of light that the trunk's and the embedded model's views lose: halls may be darker than those
that were learned."""


class Lines(Progress):
    """Says on the log what runs and how far training is."""

    def begin(self, number: int, count: int, what: str) -> None:
        """Say what starts."""
        _LOG.info("[%d/%d] %s", number, count, what)

    def on_step(self, report: StepReport) -> None:
        if report.step % LOG_EVERY == 0:
            _LOG.info(
                "%3.0f%%, step %d, loss %.3f", 100 * report.progress, report.step, report.loss
            )

    def on_evaluation(self, result: EvaluationResult) -> None:
        _LOG.info("%s: miou_present %.3f", result.data, result.miou_present)


@dataclass(frozen=True)
class Recipe:
    """Where things are."""

    material: Path
    """Raw sets, as published."""
    work: Path
    """What is made of the raw sets."""
    threads: int
    tag: str = ""
    """Ends the names of all that learned from a choice of sets, so that another choice does not take it
    for its own."""

    def place(self, name: str) -> Path:
        """Return the folder of a set, made here or given."""
        made = self.work / name
        return made if made.is_dir() else self.material / name

    def data(self, shares: dict[str, float]) -> list[str]:
        """Return sets as --data takes them."""
        return [f"{self.place(name)}={share:g}" for name, share in shares.items()]

    def net(self, name: str) -> Path:
        return self.work / "nets" / f"{name}.onnx"

    def make_nets(self) -> None:
        """Convert the published .tflite teachers to ONNX."""
        weights = self.material / "weights"
        for name, file in NETS.items():
            if not self.net(name).is_file():
                self.net(name).parent.mkdir(parents=True, exist_ok=True)
                script = str(weights / "tflite_to_onnx.py")
                source = str(weights / f"{file}.tflite")
                subprocess.run([sys.executable, script, source, str(self.net(name))], check=True)

    def make_scenes(self) -> None:
        """Write procedural scenes as label folders."""
        for name, (kind, count) in SCENES.items():
            if not (self.work / name / "credits.txt").is_file():
                write_scenes(kind, self.work / name, count)

    def make_pseudo_labels(self) -> None:
        """Let the teachers label what has no labels."""
        for job in PSEUDO_SETS:
            folder = self.work / job.name
            if not (folder / "overlays.png").is_file():
                _LOG.info("pseudo labels of %s", job.name)
                self._label(job, folder)
            elif not (folder / RULES).is_file() or (folder / RULES).read_text() != f"{job}\n":
                raise _made_otherwise(folder)

    def _label(self, job: PseudoSet, folder: Path) -> None:
        rules = LabelRules(job.confidence, job.words, job.without, WRITTEN_PX)
        sources = [self.material / source for source in job.sources]
        teachers = [
            OnnxTeacher(
                self.net(name),
                WORD_LISTS[name],
                sizes=job.sizes_px or (LOOKED_AT_PX,),
                threads=self.threads,
            )
            for name in job.teachers
        ]
        if job.complete is not None:
            for source in sources:
                complete_folder(
                    teachers, source, folder, rules, split=job.complete, joined=job.joined
                )
        else:
            opened = [read_frames(source, step=job.step) for source in sources]
            write_pseudo_labels(teachers, itertools.chain(*opened), folder, rules)
        nets = [VOC_CREDIT if teacher == "voc" else CITY_CREDIT for teacher in job.teachers]
        write_credits(folder, [*job.credits, *nets])
        (folder / RULES).write_text(f"{job}\n")
        write_overlays(folder, OVERLAYS)

    def make_text_tower(self, steps: int) -> None:
        """Distil the sentence encoder."""
        output = self.work / "text_tower.safetensors"
        if not output.is_file():
            torch.set_num_threads(usable_threads(self.threads))
            run_text(
                preset="nano",
                output=output,
                settings=DistilSettings(steps, batch=256),
                resume=(self.work / "text_tower.state.safetensors").is_file(),
            )

    def make_trunk(self, shares: dict[str, float], minutes: float) -> Path:
        """Distil the teachers' features; returns the checkpoint to start from."""
        folder = self.work / f"trunk{self.tag}"
        settings = TrunkSettings(minutes=minutes, darken=DARKEN)
        report = folder / "report.json"
        if report.is_file():
            made = json.loads(report.read_bytes())["settings"]
            if lasting(made) != lasting(settings_record(settings)):
                raise _made_otherwise(folder)
        else:
            torch.set_num_threads(usable_threads(self.threads))
            asked = TrunkRun(
                data=tuple(self.data(shares)),
                teachers=tuple(self.net(name) for name in NETS),
                output=folder,
                features=folder / "features",
                text_tower=self.work / "text_tower.safetensors",
                detail=self.net("cityscapes"),
                threads=self.threads,
            )
            resume = (folder / "state.safetensors").is_file()
            distil_trunk(asked, settings, progress=Lines(), resume=resume)
        return folder / "start.safetensors"

    def make_diffusion(self, shares: dict[str, float], start: Path, minutes: float) -> Path | None:
        """Pretrain the nano latent diffusion on the same pictures; None without minutes for it."""
        if not minutes:
            return None
        folder = self.work / f"diffusion{self.tag}"
        if not (folder / "report.json").is_file():
            parts = {name: min(share, 1.0) for name, share in shares.items()}
            settings = NanoSettings(minutes=minutes, text=str(start), threads=self.threads)
            resume = (folder / "vae_state.safetensors").is_file()
            pretrain_diffusion(self.data(parts), settings, folder, resume=resume, progress=Lines())
        return folder

    def train(
        self, name: str, shares: dict[str, float], *, diffusion: Path | None, **options: Any
    ) -> Path:
        """Train with the full method, or without the diffusion of it; returns the run's folder.

        options: of TrainSettings, over RATES.
        """
        folder = self.work / f"{name}{self.tag}"
        reading: dict[str, Any] = {}
        if diffusion is not None:
            cache = self.work / f"diffusion_cache{self.tag}"
            reading = {
                "diffusion": str(diffusion),
                "diffusion_cache": str(cache),
                "bank_drop": BANK_DROP,
            }
        given = {
            "component": "V",
            "threads": self.threads,
            "eval_minutes": 0.0,
            **reading,
            **RATES,
            **options,
        }
        settings = settings_for("nano", tuple(self.data(shares)), **given)
        state = folder / STATE
        if not (folder / RESULT).is_file():
            Trainer(settings, folder, resume=state.is_file()).train(Lines())
        elif not _continues(settings, state):
            raise _made_otherwise(folder)
        return folder

    def train_twice(
        self,
        name: str,
        shares: dict[str, float],
        start: Path,
        diffusion: Path | None,
        *,
        minutes: tuple[float, float],
        coarse: Mapping[str, Any] | None = None,
        fine: Mapping[str, Any] = FINE,
    ) -> Path:
        """Train from the trunk `start`, then on larger pictures; returns the second run's folder.

        coarse, fine: options of the two runs. Without a diffusion both are of the control V0.
        """
        method = "V" if diffusion else "V0"
        begin = {**(coarse or {}), "clip_weights": str(start), "minutes": minutes[0]}
        first = self.train(name, shares, diffusion=diffusion, component=method, **begin)
        begin = {**fine, "init": str(first / "checkpoint.safetensors"), "minutes": minutes[1]}
        return self.train(f"{name}_fine", shares, diffusion=diffusion, component=method, **begin)


def _continues(settings: TrainSettings, state: Path) -> bool:
    try:
        settings.check_continues(saved_settings(state))
    except BadInputError:
        return False
    return True


def _made_otherwise(folder: Path) -> BadInputError:
    return BadInputError(
        f"{folder} was made by other rules than these; remove it, and it is made again"
    )


def write_scenes(kind: str, folder: Path, count: int) -> None:
    """Write `count` pictures of procedural scenes, and VAL_SCENES others, as a label folder."""
    for split, number, first_seed in (("train", count, 0), ("val", VAL_SCENES, 100_000)):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            image, labels = render_image(kind, seed=first_seed + index, size_hw=(288, 384))
            cv2.imwrite(str(folder / "images" / split / f"{index:05}.jpg"), image)
            cv2.imwrite(str(folder / "labels" / split / f"{index:05}.png"), labels)
    (folder / "classes.txt").write_text("\n".join(class_names(kind)) + "\n", encoding="utf-8")
    (folder / "credits.txt").write_text(SCENES_CREDIT + "\n", encoding="utf-8")


def run_recipe(work: Callable[[], None]) -> int:
    """Run a recipe and return its exit code: 2 after one sentence on stderr, 130 after Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        work()
    except DedosError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def add_arguments(parser: argparse.ArgumentParser, *, minutes: float, fine_minutes: float) -> None:
    """Add what both recipes take; minutes, fine_minutes: defaults of the two trainings."""
    parser.add_argument("--material", type=Path, required=True, help="folder of the raw sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--word-steps", type=int, default=520, help="text tower steps (520)")
    parser.add_argument("--trunk-minutes", type=float, default=30, help="trunk distillation (30)")
    parser.add_argument(
        "--diffusion-minutes", type=float, default=12, help="diffusion (12; 0: none)"
    )
    for name, default, what in (
        ("--minutes", minutes, "training time"),
        ("--fine-minutes", fine_minutes, "of larger pictures and balanced words after that"),
    ):
        parser.add_argument(name, type=float, default=default, help=f"{what} ({default:g})")
