"""A trunk distillation from files to files: data, teachers and words in, a checkpoint out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dedos_deploy.errors import BadInputError
from dedos_deploy.files import write_atomically
from dedos_deploy.model import Dedos, build_model
from dedos_deploy.model.mobile_branch import MobileBranch
from dedos_deploy.presets import get_preset
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.training.folders import LabelFolder
from dedos_deploy.training.pretraining.mobile_weights import load_mobile_weights
from dedos_deploy.training.pretraining.teacher_features import FeatureStore, FeatureTeacher
from dedos_deploy.training.pretraining.text import load_text_tower, text_tower_credit
from dedos_deploy.training.pretraining.trunk_distillation import (
    STATE,
    Record,
    TrunkDistillation,
    settings_record,
)
from dedos_deploy.training.pretraining.trunk_patches import (
    PatchStream,
    TrunkSettings,
    readers,
    split_items,
)
from dedos_deploy.training.probe import linear_probe
from dedos_deploy.training.setup import DETAIL_CREDIT, inherited_credits, take_clip
from dedos_deploy.training.sources import open_data

REPORT = "report.json"
_DETAIL_PICTURES = 64


@dataclass(frozen=True)
class TrunkRun:
    """What a run reads and writes."""

    data: tuple[str, ...]
    """Label folders as `open_data` takes them."""

    teachers: tuple[Path, ...]
    """ONNX nets whose activations are learned."""

    output: Path
    features: Path
    """Folder of the activations."""

    preset: str = "nano"
    text_tower: Path | None = None
    """File of `dedos-train text` that the words come from."""

    init: Path | None = None
    """Checkpoint that the words and the trunk come from, without `text_tower`."""

    detail: Path | None = None
    """ONNX net whose weights the pretrained detail branch takes."""

    channels: tuple[int, int] = (32, 64)
    """Whitened channels of a middle and of a late layer."""

    probes: tuple[str, ...] = ()
    """Label folders with splits train and val to probe on."""

    threads: int = 1


def distil_trunk(
    run: TrunkRun, settings: TrunkSettings, *, progress: Progress = QUIET, resume: bool = False
) -> dict[str, Any]:
    """Make the activations, train, write start.safetensors and report.json; return the report.

    progress: two parts; resume: go on with what an interrupted run left in the output.

    Raises BadInputError for data, teachers or weights that cannot be used; KeyboardInterrupt after
    Ctrl-C or SIGTERM, with the state of training saved.
    """
    folders = open_data(run.data, "train")
    model, sources = _model(run, settings.seed)
    probes = list(zip(open_data(run.probes, "train"), open_data(run.probes, "val"), strict=True))
    store = FeatureStore(
        run.features,
        [FeatureTeacher(path, threads=run.threads) for path in run.teachers],
        channels=run.channels,
    )
    train, held_out = split_items(folders, settings.held_out)
    if run.detail is not None:
        sources += _take_detail(model, run.detail, folders, train)
    with progress.part(1, 2, "activations"):
        store.fill(readers(folders, [*train, *held_out]), progress=progress)
    before = _probed(model, probes)
    stream = PatchStream(folders, train, store, settings, model.trunk.patch)
    distillation = TrunkDistillation(model, store, stream)
    credits = [line for folder in folders for line in folder.credits]
    nets = [f"Features of {path.name}" for path in run.teachers]
    record: Record = {"sources": list(dict.fromkeys([*sources, *credits, *nets]))}
    model.train()
    with progress.part(2, 2, "trunk"):
        loop = distillation.run(run.output, record, progress, resume=resume)
    model.eval()
    report = {
        "steps": loop.step,
        "seconds": round(loop.elapsed_s, 1),
        "pictures": len(train),
        "held_out": len(held_out),
        "explained": distillation.measure(held_out),
        "space": {
            layer.name: space.explained
            for layer, space in zip(store.layers, store.spaces, strict=True)
        },
        "probe": {"before": before, "after": _probed(model, probes)},
        "settings": settings_record(settings),
    }
    write_atomically(run.output / REPORT, (json.dumps(report, indent=1) + "\n").encode())
    (run.output / STATE).unlink()
    return report


def _model(run: TrunkRun, seed: int) -> tuple[Dedos, list[str]]:
    """Return the model to train and the credits of what it starts from."""
    config = get_preset(run.preset)
    if config.clip_tune != "all":
        raise BadInputError(
            f"preset {run.preset} has CLIP weights of its own; only a trunk that starts from "
            "nothing, as that of nano, is distilled"
        )
    model = build_model(config, seed=seed)
    if run.init is not None:
        return model, inherited_credits(take_clip(model, str(run.init)))
    if run.text_tower is None:
        raise BadInputError("words need meaning; give a text tower or a checkpoint to start from")
    load_text_tower(run.text_tower, model.text_tower)
    return model, [text_tower_credit(run.text_tower)]


def _take_detail(
    model: Dedos, net: Path, folders: Sequence[LabelFolder], items: Sequence[tuple[int, int]]
) -> list[str]:
    """Give the model the detail branch of `net`, fitted to its pictures; return the credit."""
    if not isinstance(model.detail, MobileBranch):
        raise BadInputError(
            f"preset {model.config.preset} learns its detail branch; leave out --detail {net}"
        )
    chosen = [items[i] for i in range(0, len(items), max(1, len(items) // _DETAIL_PICTURES))]
    images = [torch.from_numpy(read())[None] for read in readers(folders, chosen)]
    load_mobile_weights(model.detail, net, images)
    return [f"{DETAIL_CREDIT}{net.name}"]


def _probed(
    model: Dedos, probes: Sequence[tuple[LabelFolder, LabelFolder]]
) -> dict[str, dict[str, Any]]:
    """Return mean IoU and IoU by word of every probe."""
    model.eval()
    found = {}
    for train, val in probes:
        result = linear_probe(model, train, val, model.config.size_hw)
        iou = dict(zip(result.classes, result.iou, strict=True))
        found[val.name] = {"miou_present": result.miou_present, "iou": iou}
    return found
