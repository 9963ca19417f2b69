"""What every preset sets beside the defaults of a training run, in one table."""

from __future__ import annotations

from typing import Any

from dedos_deploy.training.augment import AugmentSettings
from dedos_deploy.training.losses import LossWeights

# From scratch a trunk needs the full rate, and the auxiliary terms teach it pixels from step one.
_NANO = {
    "steps": 6000,
    "batch": 8,
    "lr": 1e-3,
    "backbone_lr": 1e-3,
    "schedule": "cosine",
    "ema": 0.998,
    "amp": True,
    "loss": LossWeights(auxiliary=0.3, dense=1.0, score=1.0),
    "augmentation": AugmentSettings(scale=(0.75, 2.0)),
}

# Crops at the aspect that the network is shown when deployed: a graph has one input size.
_EDGE = {"augmentation": AugmentSettings(recipe="mask2former-squashed")}

# Section 4.2 of the paper, and Mask2Former's recipe where it is silent. Of CLIP, which has a learning
# rate there, the LayerNorms: queries and values alone would be twice the learnable parameters of Table 7.
_PAPER = {
    **_EDGE,
    "clip_tune": "ln",
    "clip_norm": 0.01,
    "vocabulary": 171,
    "drop_words": 0.0,
    "view": "crop",
    "diffusion_hw": (640, 640),
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "paper-l": _PAPER,
    "paper-b": _PAPER,
    "edge-l": _EDGE,
    "edge-b": _EDGE,
    "nano": _NANO,
    "miniature": _NANO,
}
"""What a preset sets beside the defaults of TrainSettings."""

# AdamW's first steps are as long as the rate in every weight, whatever the gradient. At that of a model
# which starts from nothing they undo what a start knew before any loss can hold it (docs/training.md).
_NANO_KEEPING = {"lr": 1e-4, "backbone_lr": 1e-4}

KEEPING: dict[str, dict[str, Any]] = {"nano": _NANO_KEEPING, "miniature": _NANO_KEEPING}
"""What a preset sets instead in a run that keeps what its start knew."""
