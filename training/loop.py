"""The training loop: batches in, checkpoints, a log and an evaluation out."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.result import EvaluationResult
from dedos_deploy.files import write_atomically
from dedos_deploy.model import save_checkpoint
from dedos_deploy.model.blocks import fused_attention
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.threads import usable_threads
from dedos_deploy.training.bank import fill_bank
from dedos_deploy.training.begin import begin
from dedos_deploy.training.data import Batch, Share, batches
from dedos_deploy.training.denoising import DenoisingLearning, save_learning, set_means
from dedos_deploy.training.distributed import Processes, open_processes
from dedos_deploy.training.evaluate import evaluate, summary
from dedos_deploy.training.failure import DivergedError, failed_path, save_failed_step
from dedos_deploy.training.interrupts import interruptible, stopped
from dedos_deploy.training.logs import RunLog, StepReport
from dedos_deploy.training.losses import Totals
from dedos_deploy.training.objective import Loss
from dedos_deploy.training.optimizer import part_done, rate_factor, set_rate
from dedos_deploy.training.preview import SAMPLES, write_samples
from dedos_deploy.training.settings import TrainSettings
from dedos_deploy.training.setup import initial_model, make_output, open_folders, settled
from dedos_deploy.training.state import load_state, save_state, saved_data, saved_settings
from dedos_deploy.training.survey import DataCheck, checked_by_first

_LOG = logging.getLogger(__name__)

CHECKPOINT, STATE, LEARNING = (
    "checkpoint.safetensors",
    "state.safetensors",
    "learning.safetensors",
)
RESULT = "evaluation.json"

ENDLESS = 10**9


class Observer(Protocol):
    """What a front end shows while a run goes on."""

    def on_step(self, report: StepReport) -> None: ...

    def on_evaluation(self, result: EvaluationResult) -> None: ...


class Trainer:
    """One run in one output folder: `train` until the end, Ctrl-C, or a loss that is not finite.

    output: folder for checkpoint.safetensors (for export), learning.safetensors (what read the
    diffusion, for `calibrate-bank`), state.safetensors (to resume), log.jsonl, samples/ and
    evaluation.json; resume: go on from its state; allow_changed_data: also with other data under the
    same names; progress: counts the images of the data while they are checked.

    Under torchrun every process makes one Trainer with the same settings; the first one writes.

    Raises BadInputError for unusable settings, data or output.
    """

    def __init__(
        self,
        settings: TrainSettings,
        output: Path,
        *,
        resume: bool = False,
        allow_changed_data: bool = False,
        progress: Progress = QUIET,
    ) -> None:
        if output.exists() and not output.is_dir():
            raise BadInputError(f"--output {output} is a file; give a folder for the run")
        self.processes: Processes = open_processes(settings.device)
        self.settings, self.output = settled(settings, self.processes), output
        self.device = self.processes.device
        state = output / STATE
        if resume:
            self.settings.check_continues(saved_settings(state))
        self._prepare_torch()
        folders = open_folders(self.settings, "train")
        self.validation = open_folders(self.settings, "val", optional=True)
        model, record = initial_model(self.settings)
        before = saved_data(state) if resume else None
        check = DataCheck([*folders, *self.validation], before, allow_changed_data)
        mark = checked_by_first(check, self.processes, progress)
        begun = begin(self.settings, self.processes, model, record, folders)
        self.stream, self.words, self.embeddings = begun.stream, begun.words, begun.embeddings
        self.objective, self.training = begun.objective, begun.training
        self.training.data = mark
        self._inherited, self._source = begun.credits, begun.source
        if self.processes.rank == 0:
            self.stream.tell_undrawn(progress)
        make_output(output, None if resume else state)
        if resume:
            load_state(state, self.training)
        tensorboard = self.settings.tensorboard and self.processes.rank == 0
        self.log = RunLog(output, tensorboard=tensorboard)

    def _prepare_torch(self) -> None:
        if self.device.type == "cuda":
            # TF32 for what autocast leaves in float32, the VAE first of all.
            torch.set_float32_matmul_precision("high")
        if self.settings.threads:
            torch.set_num_threads(usable_threads(self.settings.threads))
        torch.manual_seed(self.settings.seed)

    @property
    def progress(self) -> float:
        """Part of the run that is over, by steps or by the clock, whichever is further."""
        training, settings = self.training, self.settings
        return part_done(training.step, settings.steps, training.elapsed_s, settings.minutes)

    def train(self, observer: Observer) -> list[EvaluationResult]:
        """Run to the end and return the evaluation of every validation split.

        Raises KeyboardInterrupt after Ctrl-C or SIGTERM in any process, with the state saved;
        DivergedError, with the batch saved; BadInputError for an unreadable file or a full disk.
        """
        with interruptible() as interrupted:
            for report in self._steps():
                if self.processes.rank == 0:
                    self.log.step(report)
                observer.on_step(report)
                if self._anywhere(interrupted.is_set()):
                    self.save()
                    raise KeyboardInterrupt(stopped(self.training.step))
                self._periodic(observer)
        self.save()
        results: list[EvaluationResult] = []
        if self.processes.rank == 0:
            results = self._report(observer, None)
            text = json.dumps([summary(result) for result in results], indent=1)
            write_atomically(self.output / RESULT, (text + "\n").encode())
        self.log.close()
        self.processes.wait()
        self.processes.close()
        return results

    def save(self) -> None:
        """Write the training state, then the checkpoint that export reads, its bank filled."""
        if self.processes.rank:
            return
        save_state(self.output / STATE, self.training, self.settings.to_json())
        extra = {
            "step": self.training.step,
            # What is kept is known as well: by the next --keep, by export, by an evaluation.
            "words": list(self.words),
            "sources": self._sources(),
            "template": self.settings.template,
            "size_hw": list(self.settings.network_hw),
            "settings": json.loads(self.settings.to_json()),
        }
        self._fill_bank()
        save_checkpoint(self.output / CHECKPOINT, self.training.best_model, extra=extra)
        learning, source = self.training.learning, self._source
        if isinstance(learning, DenoisingLearning) and source is not None:
            save_learning(self.output / LEARNING, learning, source)

    def _fill_bank(self) -> None:
        """Give the weights to ship the bank that they would be deployed with now."""
        learning = self.training.learning
        if isinstance(learning, DenoisingLearning):
            fill = self.settings.bank if int(learning.count) else "static"
            fill_bank(self.training.best_model, learning, fill)

    def _sources(self) -> list[str]:
        """Credits of everything these weights learned from, those of the first weights included."""
        credits = [line for folder in self.stream.folders for line in folder.credits]
        return list(dict.fromkeys([*self._inherited, *credits]))

    def evaluate(self, images: int | None) -> list[EvaluationResult]:
        """Return the result on every validation split with the weights that would be shipped."""
        self._fill_bank()
        model = self.training.best_model
        index = {word: slot for slot, word in enumerate(self.stream.words)}
        training_mode = model.training
        model.eval()
        with torch.no_grad(), fused_attention():
            results = [
                evaluate(
                    model,
                    folder,
                    lambda words: self.embeddings([index[word] for word in words], model=model),
                    self.settings.network_hw,
                    images=images,
                )
                for folder in self.validation
            ]
        model.train(training_mode)
        return results

    def _steps(self) -> Iterator[StepReport]:
        if self.progress >= 1.0:
            return
        pieces = self.settings.batch // (self.settings.micro_batch or self.settings.batch)
        share = Share(
            self.training.step,
            self.settings.steps or ENDLESS,
            pieces,
            self.processes.rank,
            self.processes.count,
        )
        source = batches(self.stream, share, workers=self.settings.workers)
        own = pieces // self.processes.count
        before = time.monotonic()
        with contextlib.closing(source):
            while micro := [batch for _, batch in zip(range(own), source, strict=False)]:
                waited = time.monotonic() - before
                report = self._step(micro)
                now = time.monotonic()
                took, before = now - before, now
                self.training.elapsed_s += took
                yield replace(
                    report,
                    progress=self.progress,
                    images_per_s=self.settings.batch / took,
                    waiting=waited / took,
                    elapsed_s=self.training.elapsed_s,
                )
                # What the caller did meanwhile, such as an evaluation, counts as time of the run.
                self.training.elapsed_s += time.monotonic() - before
                before = time.monotonic()
                self._agree_on_time()
                if self.progress >= 1.0:
                    return

    def _agree_on_time(self) -> None:
        """Take the first process's clock: it decides learning rates, and they must not differ."""
        if self.processes.count > 1:
            mine = self.training.elapsed_s if self.processes.rank == 0 else 0.0
            self.training.elapsed_s = self.processes.sum([mine])[0]

    def _anywhere(self, flag: bool) -> bool:
        """Whether `flag` is set in any process: all must stop after the same step."""
        return self.processes.sum([float(flag)])[0] > 0

    def _step(self, micro: list[Batch]) -> StepReport:
        training, settings = self.training, self.settings
        factor = rate_factor(
            training.step, self.progress, warmup=settings.warmup, schedule=settings.schedule
        )
        set_rate(training.optimizer, factor)
        training.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(micro)
        trained = [p for group in training.optimizer.param_groups for p in group["params"]]
        self.processes.add_gradients(trained)
        norm = torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
        if not (torch.isfinite(loss.total) and torch.isfinite(norm)):
            self._fail(micro, float(loss.total), float(norm))
        training.optimizer.step()
        if training.average is not None:
            training.average.update(training.model, training.step)
        if isinstance(training.learning, DenoisingLearning) and loss.stages is not None:
            training.learning.update_mean(loss.stages, loss.shares)
        training.step += 1
        return StepReport(
            step=training.step,
            loss=float(loss.total),
            terms={name: float(value) for name, value in loss.terms.items()},
            rate=settings.lr * factor,
            gradient_norm=float(norm),
        )

    def _backward(self, micro: list[Batch]) -> Loss:
        """Leave the step's gradients of this process; return the whole step's loss.

        Stages and shares returned are their means over all images of all processes.
        """
        objective, step = self.objective, self.training.step
        mine = sum((objective.totals(batch) for batch in micro), start=Totals(0.0, 0.0, 0.0, 0.0))
        totals = Totals(*self.processes.sum(mine.values()))
        denoise = objective.reads_diffusion(step)
        losses = []
        for number, batch in enumerate(micro):
            # All micro-batches of a step draw the same numbers (of cells to match by, of a mask), and
            # noise belongs to a picture, so that nothing depends on how the step is cut, or who
            # computes it, and nothing random needs to be saved to resume exactly.
            torch.manual_seed(self.settings.seed * ENDLESS + step)
            each = number * self.processes.count + self.processes.rank
            first = step * self.settings.batch + each * len(batch.images)
            loss = objective(batch, totals, denoise=denoise, seed=first)
            torch.autograd.backward(loss.total)
            losses.append(replace(loss, total=loss.total.detach()))
        names = list(losses[0].terms)
        found = [float(sum(loss.total for loss in losses))]
        found += [float(sum(loss.terms[name] for loss in losses)) for name in names]
        total, *terms = self.processes.sum(found)
        stages = self._sum([loss.stages for loss in losses])
        shares = self._sum([loss.shares for loss in losses])
        if stages is not None and shares is not None:
            stages, shares = set_means(stages, shares), shares / totals.images
        elif stages is not None:
            stages = stages / totals.images
        values = {n: torch.tensor(value) for n, value in zip(names, terms, strict=True)}
        return Loss(torch.tensor(total), values, stages, shares)

    def _sum(self, parts: list[torch.Tensor | None]) -> torch.Tensor | None:
        """Return the sum over micro-batches and processes of what none, or each of them, has."""
        found = [part for part in parts if part is not None]
        return self.processes.add_tensor(torch.stack(found).sum(0)) if found else None

    def _report(self, observer: Observer, images: int | None) -> list[EvaluationResult]:
        """Evaluate, paint samples, and tell the observer and the logs."""
        results = self.evaluate(images)
        for result in results:
            observer.on_evaluation(result)
            self.log.evaluation(result, self.training.step)
        for folder in self.validation[:1] if self.settings.samples else []:
            path = self.output / SAMPLES / f"step_{self.training.step:06}.png"
            sheet = write_samples(
                path,
                self.training.best_model,
                folder,
                self.embeddings,
                self.stream.words,
                self.settings,
            )
            self.log.picture("samples", sheet, self.training.step)
        return results

    def _periodic(self, observer: Observer) -> None:
        now, settings = self.training.elapsed_s, self.settings
        by_step = settings.save_steps and self.training.step % settings.save_steps == 0
        if by_step or now - self._saved_at >= 60 * settings.save_minutes:
            self.save()
            self._saved_at = now
        if settings.eval_minutes and now - self._evaluated_at >= 60 * settings.eval_minutes:
            if self.processes.rank == 0:
                self._report(observer, settings.eval_images)
            self._evaluated_at = now

    _saved_at = _evaluated_at = 0.0

    def _fail(self, micro: list[Batch], loss: float, norm: float) -> None:
        path = failed_path(self.output, self.processes.rank)
        save_failed_step(path, micro, self.stream.words, self.training.step)
        raise DivergedError(
            f"step {self.training.step} has loss {loss} and gradient norm {norm}, so the run "
            f"stopped; its batch is in {path}; try a lower --lr or --no-amp"
        )
