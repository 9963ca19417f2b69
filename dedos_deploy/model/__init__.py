"""The DEDOS model in torch: one file per box of the paper's Figure 2."""

from dedos_deploy.model.build import build_model
from dedos_deploy.model.checkpoint import load_checkpoint, save_checkpoint
from dedos_deploy.model.dedos import Dedos, Predictions
from dedos_deploy.model.freeze import FrozenDedos, freeze
from dedos_deploy.model.open_clip_weights import load_open_clip

__all__ = [
    "Dedos",
    "FrozenDedos",
    "Predictions",
    "build_model",
    "freeze",
    "load_checkpoint",
    "load_open_clip",
    "save_checkpoint",
]
