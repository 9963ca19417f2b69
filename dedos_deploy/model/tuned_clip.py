"""Which parts of CLIP a training moves: none, its LayerNorms, its queries and values, or all."""

from __future__ import annotations

from torch import Tensor

from dedos_deploy.model.dedos import Dedos
from dedos_deploy.presets import ClipTune


def choose_trained(model: Dedos, *, tune_text: bool) -> None:
    """Set requires_grad of every parameter by the config's `clip_tune` and `tune_text`.

    `qv` trains the query and value rows of the fused projections; their key rows get no gradient.
    A pretrained detail branch stays as it is.
    """
    tune = model.config.clip_tune
    if not model.config.refine_blocks:
        model.refinement.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.startswith("detail.") and model.config.detail == "mobile":
            parameter.requires_grad_(False)
        elif name.startswith("text_tower."):
            parameter.requires_grad_(tune_text)
        elif name.startswith("trunk."):
            parameter.requires_grad_(is_tuned(name, tune))
            if tune == "qv" and ".qkv." in name:
                parameter.register_hook(_without_keys)  # type: ignore[no-untyped-call]


def is_tuned(name: str, tune: ClipTune) -> bool:
    """Whether the trunk's parameter `name` is trained under `tune`, wholly or in part."""
    return {"none": False, "all": True, "ln": ".ln_" in name, "qv": ".qkv." in name}[tune]


def tuned_count(model: Dedos) -> int:
    """Return how many numbers of the trunk are trained under the config's `clip_tune`."""
    tune = model.config.clip_tune
    count = sum(
        p.numel() for name, p in model.trunk.named_parameters("trunk") if is_tuned(name, tune)
    )
    return count * 2 // 3 if tune == "qv" else count


def _without_keys(gradient: Tensor) -> Tensor:
    third = gradient.shape[0] // 3
    kept = gradient.clone()
    kept[third : 2 * third] = 0
    return kept
