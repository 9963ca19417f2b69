"""Loading the weights of published CLIPs, by an explicit rename table."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError, listed, require
from dedos_deploy.model import transformers_clip
from dedos_deploy.model.clip_layout import SCALE, clip_misfit, clip_shapes
from dedos_deploy.model.clip_trunk import PatchEmbedding
from dedos_deploy.model.dedos import Dedos
from dedos_deploy.model.heads import DenseClip
from dedos_deploy.model.open_clip_files import QUICK, ClipFacts, ClipFile, clip_facts, clip_file
from dedos_deploy.model.tensor_files import read_weights, shapes_of

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
_TOWERS = {"visual.": "trunk.", "": "text_tower."}
_POSITIONS = "visual.positional_embedding"
_PARALLEL = "module."
"""Before every name of a file that was saved while several GPUs trained."""
_UNUSED = frozenset({SCALE, "logit_bias", "attn_mask"})


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors of `clip_shapes`, whose names and shapes were checked, under our names."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in _UNUSED:
            continue
        if key == _POSITIONS:
            out["trunk.position.cls"], out["trunk.position.table"] = value[:1], value[1:]
        elif key in _WHOLE:
            out[_WHOLE[key]] = value
        elif key in _TRANSPOSED:
            out[_TRANSPOSED[key]] = value.t().contiguous()
        else:
            out[_block_name(key)] = value
    return out


def _block_name(key: str) -> str:
    tower, _, rest = key.partition("transformer.resblocks.")
    index, _, inner = rest.partition(".")
    return f"{_TOWERS[tower]}blocks.{index}.{_BLOCK[inner]}"


def load_open_clip(model: Dedos | DenseClip, pretrained: str) -> ClipFile:
    """Load CLIP weights into `model` in place and return their file: that of an open_clip tag
    (`openai`), which is fetched unless it is cached, or a local one.

    The architecture is the preset's. Weights trained with another activation than it computes are
    refused where the tag tells, or an `open_clip_config.json` or a `config.json` of transformers
    beside the file, since nothing else would show it but poor results. The mean and std that they tell become those of the model.

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

    state = read_weights(found.path, refusal, entry="state_dict")
    try:
        copy_clip(model, state)
    except BadInputError as error:
        raise refusal(str(error)) from error
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


def copy_clip(model: Dedos | DenseClip, state: dict[str, Tensor]) -> None:
    """Copy a CLIP's state dict, as open_clip or transformers name it, into the trunk and the text
    tower of `model`, every tensor and no other.

    Raises BadInputError with the reason when a name or a shape is not that of the model's CLIP.
    """
    clip = model.config.clip
    state = {name.removeprefix(_PARALLEL): value for name, value in state.items()}
    if transformers_clip.MARKER in state:
        state = transformers_clip.open_clip_state(state, clip)
    problem = clip_misfit(clip, clip_shapes(clip), shapes_of(state), _UNUSED, positions=_POSITIONS)
    if problem is not None:
        raise BadInputError(problem)
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in renamed(state).items():
            own[name].copy_(value)
    _LOG.info("loaded CLIP weights of %s", clip.architecture)
