"""What a bundle says of itself."""

from __future__ import annotations

import onnx
import onnxruntime
import torch

from dedos_deploy.bundle import Manifest, created_now
from dedos_deploy.config_json import AnyConfig
from dedos_deploy.export.options import ExportOptions
from dedos_deploy.export.rtx import require_rtx
from dedos_deploy.export.weights import TrainedModel
from dedos_deploy.peer_configs import CatSegConfig
from dedos_deploy.presets import DenseConfig
from dedos_deploy.spec import GraphSpec, Precision
from dedos_deploy.text import TEMPLATES
from dedos_deploy.version import __version__

BASE_VOCABULARY = "base"
DEFAULT_THRESHOLD = 0.3
"""Half of what a confident query alone gives a pixel of its mask in a trained model."""

DENSE_THRESHOLD = 0.15
"""Share of a softmax over words and null rows, as published for VOC21 and PC-60; COCO-Object's is 0.35."""

CAT_SEG_THRESHOLD = 0.5
"""Of a sigmoid that learned whether a word is there; its authors publish none and label every pixel."""


def manifest_of(
    trained: TrainedModel,
    spec: GraphSpec,
    options: ExportOptions,
    precision: dict[str, Precision],
    *,
    calibration_hash: str | None,
) -> Manifest:
    """Return the manifest of the bundle of a model; precision: what its `image` and `text` got.

    Raises BadInputError when the checkpoint's record holds values of the wrong kind.
    """
    config = trained.model.config
    threshold = options.threshold
    if threshold is None:
        threshold = trained.number("default_threshold", _fitting_threshold(config))
    templates = options.templates_for(config)
    entries = options.vocabulary.entries if options.vocabulary is not None else ()
    return Manifest(
        preset=config.preset,
        config=config.to_dict(),
        spec=spec,
        target=options.target,
        precision=dict(precision),
        activation=config.clip.activation,
        template_name=templates,
        templates=list(TEMPLATES[templates]),
        context_length=config.clip.text.context_length,
        thresholds={e.name: e.threshold for e in entries if e.threshold is not None},
        default_threshold=threshold,
        checkpoint_sha256=trained.checkpoint_sha256,
        tools=_tool_versions(rtx=options.target == "rtx"),
        sources=trained.sources,
        licence=trained.licence,
        created=created_now(),
        base_vocabulary=BASE_VOCABULARY,
        calibration_hash=calibration_hash,
        tiles=str(options.tiles),
    )


def _fitting_threshold(config: AnyConfig) -> float:
    """SAN has that of DEDOS, whose scores are sums over masks too."""
    if isinstance(config, DenseConfig):
        return DENSE_THRESHOLD
    return CAT_SEG_THRESHOLD if isinstance(config, CatSegConfig) else DEFAULT_THRESHOLD


def _tool_versions(*, rtx: bool) -> dict[str, str]:
    tools = {
        "dedos-deploy": __version__,
        "torch": str(torch.__version__),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }
    if rtx:
        tools["tensorrt-rtx"] = require_rtx().__version__
    return tools
