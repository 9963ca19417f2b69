"""A CLIP as the library transformers stores it, under open_clip's names."""

from __future__ import annotations

import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.model.clip_layout import SCALE, clip_misfit, clip_shapes
from dedos_deploy.model.tensor_files import shapes_of
from dedos_deploy.presets import ClipConfig

MARKER = "vision_model.embeddings.patch_embedding.weight"
"""A tensor that a CLIP has under these names only."""

_POSITIONS = "vision_model.embeddings.position_embedding.weight"
_TOWERS = {"visual.": "vision_model.", "": "text_model."}
_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_WHOLE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": _POSITIONS,
    "visual.conv1.weight": MARKER,
    # Misspelt by them.
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_TRANSPOSED = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}
_UNUSED = frozenset(
    {
        SCALE,
        "text_model.embeddings.position_ids",
        "vision_model.embeddings.position_ids",
    }
)
"""The temperature, and the numbers 0, 1, 2, … by which older files count positions."""


def open_clip_state(state: dict[str, Tensor], clip: ClipConfig) -> dict[str, Tensor]:
    """Return the tensors of `clip` under open_clip's names.

    Raises BadInputError with the reason when a name or a shape is not that of `clip`.
    """
    wanted = clip_shapes(clip)
    layout: dict[str, tuple[int, ...]] = {}
    for name, shape in wanted.items():
        parts = _parts(name)
        part_shape = shape[::-1] if name in _TRANSPOSED else (shape[0] // len(parts), *shape[1:])
        layout.update(dict.fromkeys(parts, part_shape))
    problem = clip_misfit(clip, layout, shapes_of(state), _UNUSED, positions=_POSITIONS)
    if problem is not None:
        raise BadInputError(problem)
    return {name: _joined(name, [state[part] for part in _parts(name)]) for name in wanted}


def _parts(name: str) -> list[str]:
    """Return the tensors of theirs that open_clip's tensor `name` consists of, in its order."""
    if name in _WHOLE:
        return [_WHOLE[name]]
    if name in _TRANSPOSED:
        return [_TRANSPOSED[name]]
    tower, _, rest = name.partition("transformer.resblocks.")
    index, _, inner = rest.partition(".")
    block = f"{_TOWERS[tower]}encoder.layers.{index}."
    if inner.startswith("attn.in_proj_"):
        kind = inner.removeprefix("attn.in_proj_")
        return [f"{block}self_attn.{part}_proj.{kind}" for part in "qkv"]
    module, _, kind = inner.rpartition(".")
    return [f"{block}{_BLOCK[module]}.{kind}"]


def _joined(name: str, parts: list[Tensor]) -> Tensor:
    if name in _TRANSPOSED:
        return parts[0].t()
    return torch.cat(parts) if len(parts) > 1 else parts[0]
