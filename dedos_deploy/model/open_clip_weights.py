"""Loading CLIP weights through open_clip, by an explicit rename table."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from dedos_deploy.borders import first_line, foreign
from dedos_deploy.errors import BadInputError, listed, require
from dedos_deploy.model.clip_trunk import PatchEmbedding
from dedos_deploy.model.dedos import Dedos
from dedos_deploy.model.heads import DenseClip
from dedos_deploy.model.open_clip_files import QUICK, ClipFacts, ClipFile, clip_facts, clip_file

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


def load_open_clip(model: Dedos | DenseClip, pretrained: str) -> ClipFile:
    """Load CLIP weights into `model` in place and return their file: that of an open_clip tag
    (`openai`), which is fetched unless it is cached, or a local one.

    The architecture is the preset's. Weights trained with another activation than it computes are
    refused where the tag, or an `open_clip_config.json` beside the file, tells, since nothing else
    would show it but poor results. The mean and std that they tell become those of the model.

    Raises BadInputError when the weights cannot be had or do not fit, MissingExtraError without
    open_clip.
    """
    open_clip = require("open_clip", extra="train", purpose="loading CLIP weights")
    clip = model.config.clip
    quick = clip.activation == "quick_gelu"
    facts = clip_facts(open_clip, clip, pretrained)
    if quick != clip.architecture.endswith(QUICK):
        raise BadInputError(
            f"{clip.architecture} and activation {clip.activation!r} disagree; quick_gelu belongs "
            "to the -quickgelu architectures"
        )
    if facts.quick_gelu not in (None, quick):
        names = ("GELU", "QuickGELU")
        tags = open_clip.list_pretrained_tags_by_model(clip.architecture)
        fitting = [tag for tag in tags if clip_facts(open_clip, clip, tag).quick_gelu == quick]
        raise BadInputError(
            f"CLIP weights {pretrained!r} were trained with {names[not quick]}, and "
            f"{model.config.preset} computes {names[quick]}, which would only show in poor results; "
            f"take a preset of the other activation, or other weights: {listed(fitting) or 'a file'}"
        )

    found = clip_file(open_clip, clip, pretrained)

    def refusal(reason: str) -> BadInputError:
        return BadInputError(
            f"CLIP weights {pretrained!r} for {clip.architecture} could not be loaded ({reason}); "
            "fetch them again, or give a local file of this architecture"
        )

    with foreign(refusal, reason=_told):
        source = open_clip.create_model(
            clip.architecture, pretrained=str(found.path), force_quick_gelu=quick
        )
    copy_clip(model, source.state_dict())
    _set_preprocessing(model, facts)
    return found


def _set_preprocessing(model: Dedos | DenseClip, facts: ClipFacts) -> None:
    """Let the model normalise pictures as its weights were trained; ClipConfig checks the values."""
    clip, embedding = model.config.clip, model.trunk.patch_embedding
    clip = replace(clip, mean=facts.mean or clip.mean, std=facts.std or clip.std)
    model.config = replace(model.config, clip=clip)
    assert isinstance(embedding, PatchEmbedding)
    embedding.mean.copy_(torch.tensor(clip.mean))
    embedding.std.copy_(torch.tensor(clip.std))


def _told(error: BaseException) -> str:
    """Return the first line that says something: torch begins with a heading."""
    lines = str(error).strip().splitlines()
    heading = len(lines) > 1 and lines[0].startswith("Error(s) in loading")
    return first_line(ValueError(lines[1])) if heading else first_line(error)


def copy_clip(model: Dedos | DenseClip, state: dict[str, Tensor]) -> None:
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
