"""Loading CLIP weights through open_clip, by an explicit rename table."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from dedos_deploy.borders import first_line, foreign
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.model.dedos import Dedos

_LOG = logging.getLogger(__name__)

_BLOCK = {
    "ln_1.weight": "ln_1.weight",
    "ln_1.bias": "ln_1.bias",
    "attn.in_proj_weight": "qkv.weight",
    "attn.in_proj_bias": "qkv.bias",
    "attn.out_proj.weight": "out.weight",
    "attn.out_proj.bias": "out.bias",
    "ln_2.weight": "ln_2.weight",
    "ln_2.bias": "ln_2.bias",
    "mlp.c_fc.weight": "fc.weight",
    "mlp.c_fc.bias": "fc.bias",
    "mlp.c_proj.weight": "proj.weight",
    "mlp.c_proj.bias": "proj.bias",
}
_WHOLE = {
    "visual.class_embedding": "trunk.cls",
    "visual.conv1.weight": "trunk.patch_embedding.conv.weight",
    "visual.ln_pre.weight": "trunk.ln_pre.weight",
    "visual.ln_pre.bias": "trunk.ln_pre.bias",
    "visual.ln_post.weight": "trunk.ln_post.weight",
    "visual.ln_post.bias": "trunk.ln_post.bias",
    "token_embedding.weight": "text_tower.token_embedding.weight",
    "positional_embedding": "text_tower.position",
    "ln_final.weight": "text_tower.ln_final.weight",
    "ln_final.bias": "text_tower.ln_final.bias",
}
_TRANSPOSED = {
    "visual.proj": "trunk.proj.weight",
    "text_projection": "text_tower.projection.weight",
}
_UNUSED = frozenset({"logit_scale", "logit_bias", "attn_mask"})


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return an open_clip state dict under our names.

    Raises BadInputError for a key that the table does not know, such as of a non-ViT model.
    """
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in _UNUSED:
            continue
        if key == "visual.positional_embedding":
            out["trunk.position.cls"], out["trunk.position.table"] = value[:1], value[1:]
        elif key in _WHOLE:
            out[_WHOLE[key]] = value
        elif key in _TRANSPOSED:
            out[_TRANSPOSED[key]] = value.t().contiguous()
        else:
            out[_block_name(key)] = value
    return out


def _block_name(key: str) -> str:
    for prefix, target in (("visual.transformer.", "trunk."), ("transformer.", "text_tower.")):
        head = f"{prefix}resblocks."
        if key.startswith(head):
            index, _, rest = key[len(head) :].partition(".")
            if rest in _BLOCK:
                return f"{target}blocks.{index}.{_BLOCK[rest]}"
    raise BadInputError(
        f"CLIP weights have the key {key!r}, which is not of a plain ViT CLIP; "
        "use an open_clip ViT such as ViT-B-16-quickgelu"
    )


def load_open_clip(model: Dedos, pretrained: str) -> None:
    """Load CLIP weights into `model` in place: an open_clip tag (`openai`) or a local file.

    The architecture is the preset's; OpenAI's weights need the `-quickgelu` ones, and a mismatch
    of the activation is refused, since nothing else would show it but poor results.

    Raises BadInputError when the weights cannot be had or do not fit, MissingExtraError without
    open_clip.
    """
    open_clip = require("open_clip", extra="train", purpose="loading CLIP weights")
    clip = model.config.clip
    quick = clip.activation == "quick_gelu"
    tags = open_clip.list_pretrained_tags_by_model(clip.architecture)
    if not Path(pretrained).is_file() and pretrained not in tags:
        raise BadInputError(
            f"CLIP weights {pretrained!r} are neither a file nor a tag of {clip.architecture}; "
            f"tags: {', '.join(tags) or 'none'}"
        )
    if quick != clip.architecture.endswith("-quickgelu"):
        raise BadInputError(
            f"{clip.architecture} and activation {clip.activation!r} disagree; quick_gelu belongs "
            "to the -quickgelu architectures"
        )

    def refusal(reason: str) -> BadInputError:
        return BadInputError(
            f"CLIP weights {pretrained!r} for {clip.architecture} could not be loaded ({reason}); "
            "check the connection or give a local file"
        )

    with foreign(refusal, reason=first_line):
        source = open_clip.create_model(
            clip.architecture, pretrained=pretrained, force_quick_gelu=quick
        )
    copy_clip(model, source.state_dict())


def copy_clip(model: Dedos, state: dict[str, Tensor]) -> None:
    """Copy an open_clip state dict into the trunk and the text tower of `model`, strictly."""
    own = dict(model.named_parameters())
    expected = {name for name in own if name.startswith(("trunk.", "text_tower."))}
    found = renamed(state)
    if expected != set(found):
        odd = min(expected ^ set(found))
        raise BadInputError(f"CLIP weights do not fit {model.config.preset}: {odd} is unmatched")
    with torch.no_grad():
        for name, value in found.items():
            if own[name].shape != value.shape:
                raise BadInputError(
                    f"CLIP weights do not fit {model.config.preset}: {name} has shape "
                    f"{tuple(value.shape)}, expected {tuple(own[name].shape)}"
                )
            own[name].copy_(value)
    _LOG.info("loaded %d CLIP tensors", len(found))
