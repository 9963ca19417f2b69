"""The tensors of a SAN checkpoint: names, shapes, and which of ours they become."""

from __future__ import annotations

from torch import Tensor

from dedos_deploy.model.clip_layout import (
    block_shapes,
    blocks_in,
    clip_config,
    dims,
    linear_shapes,
    norm_shapes,
    size_name,
    square_side,
    text_shapes,
    under,
    visual_shapes,
)
from dedos_deploy.model.open_clip_weights import renamed
from dedos_deploy.model.peers.san import FUSIONS
from dedos_deploy.model.tensor_files import Shapes
from dedos_deploy.peer_configs import SIDE_PATCH, SanConfig

_EARLY = "clip_visual_extractor."
_LATE = "clip_rec_head."
_TEXT = "ov_classifier."
_SIDE = "side_adapter_network."
_HEAD = f"{_SIDE}mask_decoder."
MARKER = f"{_SIDE}query_embed"
UNUSED = frozenset({"criterion.empty_weight", f"{_TEXT}attn_mask"})
"""The weight of a training loss, and the mask of the text tower, which is made anew."""

_CLIP_SCALES = {14: (7, 10)}
"""The picture of CLIP over that of the side adapter: 448 of 640 for L/14, 320 for all others."""

_BLOCK = {
    "norm1": "ln_1",
    "attn.qkv": "qkv",
    "attn.proj": "out",
    "norm2": "ln_2",
    "mlp.fc1": "fc",
    "mlp.fc2": "proj",
}


def config_from_shapes(shapes: Shapes) -> SanConfig:
    """Return the SAN that tensors of these shapes are of.

    Raises BadInputError with the reason when a tensor that decides it is missing or odd.
    """
    split = blocks_in(shapes, f"{_EARLY}resblocks.")
    layers = split + blocks_in(shapes, f"{_LATE}resblocks.")
    embed, head_width = dims(shapes, f"{_HEAD}query_mlp.layers.2.weight", 2)
    heads = dims(shapes, f"{_HEAD}attn_mlp.layers.2.bias", 1)[0] // embed
    clip = clip_config(shapes, _EARLY, _TEXT, layers=layers, heads=heads)
    _, queries, side_width = dims(shapes, MARKER, 3)
    position = f"{_SIDE}vit_model.pos_embed"
    return SanConfig(
        preset=f"san{size_name(clip)}",
        clip=clip,
        size_hw=(640, 640),
        split=split,
        clip_scale=_CLIP_SCALES.get(clip.patch, (1, 2)),
        queries=queries,
        side_width=side_width,
        side_layers=blocks_in(shapes, f"{_SIDE}vit_model.blocks.", "norm1.weight"),
        side_grid=square_side(shapes, position, dims(shapes, position, 3)[1], 0),
        embed_width=embed,
        head_width=head_width,
    )


def layout(config: SanConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that a checkpoint of `config` must have."""
    clip = config.clip
    late = ("ln_post", "proj")
    names: dict[str, tuple[int, ...]] = {}
    for name, shape in visual_shapes(clip).items():
        names[f"{_LATE if name.startswith(late) else _EARLY}{name}"] = shape
    block = block_shapes(clip.width, fused=True)
    for index in range(clip.layers):
        names |= under(_vision_block(index, config.split), block)
    names |= under(_TEXT, text_shapes(clip)) | {f"{_TEXT}bg_embed": (1, clip.text_width)}
    for index in range(clip.text.layers):
        block = block_shapes(clip.text.width, fused=True)
        names |= under(f"{_TEXT}transformer.resblocks.{index}.", block)
    return names | under(_SIDE, _side_shapes(config)) | under(_HEAD, _head_shapes(config))


def _vision_block(index: int, split: int) -> str:
    prefix, inside = (_EARLY, index) if index < split else (_LATE, index - split)
    return f"{prefix}resblocks.{inside}."


def _side_shapes(config: SanConfig) -> dict[str, tuple[int, ...]]:
    width = config.side_width
    block = {
        **norm_shapes("norm1", width),
        **linear_shapes("attn.qkv", width, 3 * width),
        **linear_shapes("attn.proj", width, width),
        **norm_shapes("norm2", width),
        **linear_shapes("mlp.fc1", width, 4 * width),
        **linear_shapes("mlp.fc2", 4 * width, width),
    }
    names: dict[str, tuple[int, ...]] = {
        "query_embed": (1, config.queries, width),
        "query_pos_embed": (1, config.queries, width),
        "vit_model.pos_embed": (1, config.side_grid**2, width),
        **linear_shapes("vit_model.patch_embed.proj", 3, width, (SIDE_PATCH, SIDE_PATCH)),
    }
    for index in range(config.side_layers):
        names |= under(f"vit_model.blocks.{index}.", block)
    for index in range(FUSIONS):
        prefix = f"fusion_layers.layer_{index}.input_proj."
        names |= norm_shapes(f"{prefix}0", config.clip.width)
        names |= linear_shapes(f"{prefix}1", config.clip.width, width, (1, 1))
    return names


def _head_shapes(config: SanConfig) -> dict[str, tuple[int, ...]]:
    inner, embed = config.head_width, config.embed_width
    names = linear_shapes("bias_scaling", 1, 1)
    for mlp, outputs, kernel in (
        ("query_mlp", embed, ()),
        ("pix_mlp", embed, (1, 1)),
        ("attn_mlp", embed * config.clip.heads, (1, 1)),
    ):
        names |= linear_shapes(f"{mlp}.layers.0", config.side_width, inner, kernel)
        names |= linear_shapes(f"{mlp}.layers.1", inner, inner, kernel)
        names |= linear_shapes(f"{mlp}.layers.2", inner, outputs, kernel)
    return names


def converted(tensors: dict[str, Tensor], config: SanConfig) -> dict[str, Tensor]:
    """Return tensors of `layout(config)` under our names and in our shapes."""
    clip: dict[str, Tensor] = {}
    side: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if key.startswith(_SIDE):
            side[key.removeprefix(_SIDE)] = value
        else:
            clip[_open_clip_name(key, config.split)] = value
    background, scale = clip.pop("bg_embed"), clip.pop("logit_scale")
    return {
        **renamed(clip),
        "word_logits.background": background,
        "word_logits.log_scale": scale,
        **_side_adapter(side, config),
        **_mask_head(side, config),
    }


def _open_clip_name(key: str, split: int) -> str:
    prefix, _, name = key.partition(".")
    if f"{prefix}." == _TEXT:
        return name
    first, _, rest = name.partition(".")
    if first != "resblocks":
        return f"visual.{name}"
    index, _, rest = rest.partition(".")
    number = int(index) + (split if f"{prefix}." == _LATE else 0)
    return f"visual.transformer.resblocks.{number}.{rest}"


def _side_adapter(side: dict[str, Tensor], config: SanConfig) -> dict[str, Tensor]:
    named = {
        "patch_embedding.conv.weight": side["vit_model.patch_embed.proj.weight"],
        "patch_bias": side["vit_model.patch_embed.proj.bias"],
        "query": side["query_embed"],
        "position.cls": side["query_pos_embed"][0],
        "position.table": side["vit_model.pos_embed"][0],
    }
    for kind in ("weight", "bias"):
        for index in range(config.side_layers):
            for theirs, ours in _BLOCK.items():
                value = side[f"vit_model.blocks.{index}.{theirs}.{kind}"]
                named[f"blocks.{index}.{ours}.{kind}"] = value
        for index in range(FUSIONS):
            prefix = f"fusion_layers.layer_{index}.input_proj."
            named[f"fusions.{index}.norm.{kind}"] = side[f"{prefix}0.{kind}"]
            named[f"fusions.{index}.proj.{kind}"] = _plain(side[f"{prefix}1.{kind}"])
    return {f"side.{name}": value for name, value in named.items()}


def _mask_head(side: dict[str, Tensor], config: SanConfig) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for theirs, ours, layers in (
        ("query_mlp", "query", 3),
        ("pix_mlp", "pixel", 3),
        ("attn_mlp", "bias_pixel.0", 2),
    ):
        for layer in range(layers):
            for kind in ("weight", "bias"):
                value = side[f"mask_decoder.{theirs}.layers.{layer}.{kind}"]
                named[f"{ours}.{2 * layer}.{kind}"] = _plain(value)
    scale = side["mask_decoder.bias_scaling.weight"].double()[0, 0]
    weight = _plain(side["mask_decoder.attn_mlp.layers.2.weight"]).double() * scale
    bias = side["mask_decoder.attn_mlp.layers.2.bias"].double() * scale
    heads, embed = config.clip.heads, config.embed_width
    by_head = weight.reshape(heads, embed, -1).transpose(1, 2)
    named["bias_query.weight"] = by_head.reshape(-1, embed).float()
    named["bias_offset.weight"] = bias.reshape(heads, embed).float()
    named["bias_offset.bias"] = side["mask_decoder.bias_scaling.bias"].expand(heads)
    return {f"mask_head.{name}": value for name, value in named.items()}


def _plain(value: Tensor) -> Tensor:
    """Return the weight of a 1x1 convolution as that of a linear layer; anything else as it is."""
    return value.flatten(1) if value.ndim == 4 else value
