"""The training loop: batches in, checkpoints, a log and an evaluation out."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor

from dedos_deploy.assets import EMBEDDED_WEIGHTS, assets_path
from dedos_deploy.errors import BadInputError, DedosError
from dedos_deploy.model import Dedos, build_model, load_checkpoint, load_open_clip, save_checkpoint
from dedos_deploy.presets import get_preset
from dedos_deploy.training.data import Batch, BatchSettings, BatchStream, batches
from dedos_deploy.training.embeddings import WordEmbeddings
from dedos_deploy.training.evaluate import Evaluation, evaluate
from dedos_deploy.training.folders import LabelFolder, open_folder
from dedos_deploy.training.losses import Outputs, segmentation_loss
from dedos_deploy.training.optimizer import (
    WeightAverage,
    build_optimizer,
    choose_trained,
    rate_factor,
    set_rate,
)
from dedos_deploy.training.settings import TrainSettings
from dedos_deploy.training.state import Training, load_state, save_state, saved_settings
from dedos_deploy.training.targets import IGNORE, OTHER

_LOG = logging.getLogger(__name__)

CHECKPOINT, STATE, LOG = "checkpoint.safetensors", "state.safetensors", "log.jsonl"
RESULT, FAILED = "evaluation.json", "failed_step.safetensors"

EMBEDDED = "embedded"
"""What `init` calls the nano weights that ship with the package."""

ENDLESS = 10**9


class DivergedError(DedosError):
    """The loss or a gradient is not a finite number."""


@dataclass(frozen=True)
class StepReport:
    """One step as the observer sees it.

    step: number done so far; progress: part of the run that is over, [0, 1]; terms: loss terms of
    the final layer; waiting: part of the step's time spent waiting for data, [0, 1].
    """

    step: int
    loss: float
    terms: dict[str, float]
    rate: float
    gradient_norm: float
    progress: float = 0.0
    images_per_s: float = 0.0
    waiting: float = 0.0
    elapsed_s: float = 0.0


class Observer(Protocol):
    """What a front end shows while a run goes on."""

    def on_step(self, report: StepReport) -> None: ...

    def on_evaluation(self, result: Evaluation) -> None: ...


class Trainer:
    """One run in one output folder: `train` until the end, Ctrl-C, or a loss that is not finite.

    output: folder for checkpoint.safetensors (for export), state.safetensors (to resume),
    log.jsonl and evaluation.json; resume: go on from its state.

    Raises BadInputError for unusable settings, data or output.
    """

    def __init__(self, settings: TrainSettings, output: Path, *, resume: bool = False) -> None:
        self.settings, self.output = settings, output
        if resume:
            settings.check_continues(saved_settings(output / STATE))
        self.device = _device(settings)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        torch.manual_seed(settings.seed)
        self.stream = BatchStream(_folders(settings, "train"), _batch_settings(settings))
        self.validation = _folders(settings, "val", optional=True)
        model, record = _initial_model(settings)
        model = model.to(self.device).train()
        self._inherited: list[str] = list(record.get("sources", ()))
        choose_trained(model, tune_text=settings.tune_text)
        self.embeddings = WordEmbeddings(
            model, self.stream.words, template=settings.template, tuned=settings.tune_text
        )
        average = WeightAverage(model, settings.ema) if settings.ema else None
        self.training = Training(model, build_optimizer(model, settings), average)
        _make_output(output, resume)
        if resume:
            load_state(output / STATE, self.training)

    @property
    def progress(self) -> float:
        """Part of the run that is over, by steps or by the clock, whichever is further."""
        done = self.training.step / self.settings.steps if self.settings.steps else 0.0
        if self.settings.minutes:
            done = max(done, self.training.elapsed_s / (60 * self.settings.minutes))
        return min(done, 1.0)

    def train(self, observer: Observer) -> list[Evaluation]:
        """Run to the end and return the evaluation of every validation split.

        Raises KeyboardInterrupt after Ctrl-C, with the state saved; DivergedError, with the batch
        saved; BadInputError for an unreadable file or a full disk.
        """
        with _interruptible() as interrupted:
            for report in self._steps():
                self._log(report)
                observer.on_step(report)
                if interrupted.is_set():
                    self.save()
                    raise KeyboardInterrupt
                self._periodic(observer)
        self.save()
        results = self.evaluate(None)
        for result in results:
            observer.on_evaluation(result)
        text = json.dumps([asdict(result) for result in results], indent=1)
        _write_text(self.output / RESULT, text + "\n")
        return results

    def save(self) -> None:
        """Write the training state, then the checkpoint that export reads."""
        save_state(self.output / STATE, self.training, self.settings.to_json())
        extra = {
            "step": self.training.step,
            "words": list(self.stream.words),
            "sources": self._sources(),
            "template": self.settings.template,
            "size_hw": list(self.settings.network_hw),
            "settings": json.loads(self.settings.to_json()),
        }
        save_checkpoint(self.output / CHECKPOINT, self.training.best_model, extra=extra)

    def _sources(self) -> list[str]:
        """Credits of everything these weights learned from, those of the first weights included."""
        credits = [line for folder in self.stream.folders for line in folder.credits]
        return list(dict.fromkeys([*self._inherited, *credits]))

    def evaluate(self, images: int | None) -> list[Evaluation]:
        """Return the result on every validation split with the weights that would be shipped."""
        model = self.training.best_model
        index = {word: slot for slot, word in enumerate(self.stream.words)}
        training_mode = model.training
        model.eval()
        with torch.no_grad():
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
        stop = self.settings.steps or ENDLESS
        source = batches(
            self.stream, start=self.training.step, stop=stop, workers=self.settings.workers
        )
        before = time.monotonic()
        with contextlib.closing(source):
            for batch in source:
                waited = time.monotonic() - before
                report = self._step(batch)
                now = time.monotonic()
                took, before = now - before, now
                self.training.elapsed_s += took
                yield replace(
                    report,
                    progress=self.progress,
                    images_per_s=len(batch.images) / took,
                    waiting=waited / took,
                    elapsed_s=self.training.elapsed_s,
                )
                # What the caller did meanwhile, such as an evaluation, counts as time of the run.
                self.training.elapsed_s += time.monotonic() - before
                before = time.monotonic()
                if self.progress >= 1.0:
                    return

    def _step(self, batch: Batch) -> StepReport:
        training, settings = self.training, self.settings
        factor = rate_factor(
            training.step, self.progress, warmup=settings.warmup, schedule=settings.schedule
        )
        set_rate(training.optimizer, factor)
        # Each step has its own seed, so that nothing random needs to be saved to resume exactly.
        torch.manual_seed(settings.seed * ENDLESS + training.step)
        loss, terms = self.loss(batch)
        training.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        trained = [p for group in training.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            self._save_failure(batch, loss, norm)
        training.optimizer.step()
        if training.average is not None:
            training.average.update(training.model, training.step)
        training.step += 1
        return StepReport(
            step=training.step,
            loss=float(loss.detach()),
            terms={name: float(value) for name, value in terms.items()},
            rate=settings.lr * factor,
            gradient_norm=float(norm),
        )

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss of `batch` and its terms."""
        text = self.embeddings(batch.slots)
        valid = torch.ones(len(text), device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.amp):
            found = self.training.model.predict(batch.images.to(self.device), text, valid)
        outputs = Outputs(
            (*found.auxiliary, (found.class_logits, found.mask_logits)), found.dense_logits
        )
        labels, annotated = batch.labels.to(self.device), batch.annotated.to(self.device)
        return segmentation_loss(outputs, labels, annotated, self.settings.loss)

    def _periodic(self, observer: Observer) -> None:
        now, settings = self.training.elapsed_s, self.settings
        if now - self._saved_at >= 60 * settings.save_minutes:
            self.save()
            self._saved_at = now
        if settings.eval_minutes and now - self._evaluated_at >= 60 * settings.eval_minutes:
            for result in self.evaluate(settings.eval_images):
                observer.on_evaluation(result)
            self._evaluated_at = now

    _saved_at = 0.0
    _evaluated_at = 0.0

    def _log(self, report: StepReport) -> None:
        if report.step % 10 and report.progress < 1.0:
            return
        with (self.output / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(report)) + "\n")

    def _save_failure(self, batch: Batch, loss: Tensor, norm: Tensor) -> None:
        from safetensors.torch import save_file

        path, loss = self.output / FAILED, loss.detach()
        words = [self.stream.words[slot] for slot in batch.slots]
        tensors = {"images": batch.images, "labels": batch.labels, "annotated": batch.annotated}
        save_file(
            {name: value.contiguous() for name, value in tensors.items()},
            path,
            metadata={"step": str(self.training.step), "words": json.dumps(words)},
        )
        raise DivergedError(
            f"step {self.training.step} has loss {float(loss)} and gradient norm {float(norm)}, "
            f"so the run stopped; its batch is in {path}; try a lower --lr or --no-amp"
        )


def _initial_model(settings: TrainSettings) -> tuple[Dedos, dict[str, Any]]:
    """Return the model to start from and what its checkpoint recorded."""
    if settings.init:
        path = assets_path(EMBEDDED_WEIGHTS) if settings.init == EMBEDDED else settings.init
        return load_checkpoint(path, preset=settings.preset)
    model = build_model(get_preset(settings.preset), seed=settings.seed)
    if settings.clip_weights:
        load_open_clip(model, settings.clip_weights)
    elif model.config.clip_tune != "all":
        raise BadInputError(
            f"preset {settings.preset} keeps CLIP frozen and needs its weights; give "
            "--clip-weights openai, a local file, or --init CHECKPOINT"
        )
    return model, {}


def _folders(settings: TrainSettings, split: str, *, optional: bool = False) -> list[LabelFolder]:
    """Return the checked folders of `split`; with `optional`, those that have that split."""
    background = OTHER if settings.background == "negative" else IGNORE
    folders = []
    for entry in settings.data:
        path, share = _share(entry)
        if optional and not _has_split(path, split):
            continue
        folders.append(open_folder(path, split=split, background=background, share=share))
    return folders


def _has_split(path: str, split: str) -> bool:
    from dedos_deploy.training.folders import find_folder

    return (find_folder(path) / "images" / split).is_dir()


def _share(entry: str) -> tuple[str, float]:
    path, equals, share = entry.rpartition("=")
    if not equals:
        return entry, 1.0
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise BadInputError(
            f"data share {share!r} in {entry!r} is not a positive number; write FOLDER=2 to show "
            "each image twice an epoch"
        )
    return path, value


def _batch_settings(settings: TrainSettings) -> BatchSettings:
    return BatchSettings(
        settings.network_hw,
        settings.batch,
        seed=settings.seed,
        vocabulary=settings.vocabulary,
        drop_words=settings.drop_words,
        augmentation=settings.augmentation,
    )


def _device(settings: TrainSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BadInputError(
            "torch finds no CUDA device; use --device cpu or install its CUDA build"
        )
    return torch.device(settings.device)


def _make_output(output: Path, resume: bool) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"cannot create output folder {output}: {error}") from error
    if not resume and (output / STATE).exists():
        raise BadInputError(
            f"{output} already holds a run; add --resume to go on with it, or choose another "
            "--output"
        )


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second one interrupts at once.

    A step is never cut in half: an optimizer stopped between two parameters cannot be resumed.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
