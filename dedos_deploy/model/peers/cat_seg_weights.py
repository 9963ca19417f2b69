"""The tensors of a CAT-Seg checkpoint: names, shapes, and which of ours they become."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dedos_deploy.model.clip_layout import (
    block_shapes,
    blocks_in,
    clip_config,
    dims,
    linear_shapes,
    norm_shapes,
    size_name,
    text_shapes,
    under,
    visual_shapes,
)
from dedos_deploy.model.open_clip_weights import renamed
from dedos_deploy.model.peers.cat_seg import LIFTS
from dedos_deploy.model.tensor_files import Shapes
from dedos_deploy.model.volume_blocks import WINDOW
from dedos_deploy.peer_configs import GRID, CatSegConfig

_CLIP = "sem_seg_head.predictor.clip_model."
_VISION = f"{_CLIP}visual.transformer.resblocks."
_HEAD = "sem_seg_head.predictor.transformer."
MARKER = f"{_HEAD}text_guidance_projection.0.weight"
UNUSED: frozenset[str] = frozenset()


def config_from_shapes(shapes: Shapes) -> CatSegConfig:
    """Return the CAT-Seg that tensors of these shapes are of.

    Raises BadInputError with the reason when a tensor that decides it is missing or odd.
    """
    clip = clip_config(shapes, f"{_CLIP}visual.", _CLIP, layers=blocks_in(shapes, _VISION))
    projections = [
        dims(shapes, f"{_HEAD}decoder_guidance_projection.{i}.0.weight", 4) for i in (0, 1)
    ]
    decoder = [dims(shapes, f"{_HEAD}decoder{i}.conv.double_conv.0.weight", 4)[0] for i in (1, 2)]
    return CatSegConfig(
        preset=f"catseg{size_name(clip)}",
        clip=clip,
        size_hw=(384, 384),
        layers=blocks_in(shapes, f"{_HEAD}layers.", "attention.norm1.weight"),
        width=dims(shapes, f"{_HEAD}conv1.weight", 4)[0],
        guidance=dims(shapes, f"{_HEAD}guidance_projection.0.weight", 4)[0],
        text_guidance=dims(shapes, MARKER, 2)[0],
        lifted=(projections[0][1], projections[1][1]),
        decoder_guidance=(projections[0][0], projections[1][0]),
        decoder=(decoder[0], decoder[1]),
    )


def layout(config: CatSegConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that a checkpoint of `config` must have."""
    clip = config.clip
    names = under(f"{_CLIP}visual.", visual_shapes(clip)) | under(_CLIP, text_shapes(clip))
    for prefix, tower in ((_VISION, clip), (f"{_CLIP}transformer.resblocks.", clip.text)):
        for index in range(tower.layers):
            names |= under(f"{prefix}{index}.", block_shapes(tower.width, fused=False))
    for index, (out, kernel) in enumerate(zip(config.lifted, LIFTS, strict=True), start=1):
        names |= _transposed_shapes(f"upsample{index}", clip.width, out, kernel)
    for index in range(config.layers):
        names |= under(f"{_HEAD}layers.{index}.", _layer_shapes(config))
    return names | under(_HEAD, _decoder_shapes(config))


def _transposed_shapes(name: str, inputs: int, out: int, kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (inputs, out, kernel, kernel), f"{name}.bias": (out,)}


def _decoder_shapes(config: CatSegConfig) -> dict[str, tuple[int, ...]]:
    text_width = config.clip.text_width
    names = {
        **linear_shapes("conv1", 1, config.width, (7, 7)),
        **linear_shapes("guidance_projection.0", text_width, config.guidance, (3, 3)),
        **linear_shapes("text_guidance_projection.0", text_width, config.text_guidance),
        **linear_shapes("head", config.decoder[1], 1, (3, 3)),
    }
    wide = config.width
    for index, out in enumerate(config.decoder):
        guidance = config.decoder_guidance[index]
        projection = f"decoder_guidance_projection.{index}.0"
        names |= linear_shapes(projection, config.lifted[index], guidance, (3, 3))
        decoder = f"decoder{index + 1}."
        names |= _transposed_shapes(f"{decoder}up", wide, wide - guidance, 2)
        names[f"{decoder}conv.double_conv.0.weight"] = (out, wide, 3, 3)
        names[f"{decoder}conv.double_conv.3.weight"] = (out, out, 3, 3)
        names |= norm_shapes(f"{decoder}conv.double_conv.1", out)
        names |= norm_shapes(f"{decoder}conv.double_conv.4", out)
        wide = out
    return names


def _layer_shapes(config: CatSegConfig) -> dict[str, tuple[int, ...]]:
    width = config.width
    names = norm_shapes("swin_block.guidance_norm", config.guidance)
    for block in ("swin_block.block_1.", "swin_block.block_2."):
        names |= norm_shapes(f"{block}norm1", width) | norm_shapes(f"{block}norm2", width)
        for part in "qk":
            names |= linear_shapes(f"{block}attn.{part}", width + config.guidance, width)
        names |= linear_shapes(f"{block}attn.v", width, width)
        names |= linear_shapes(f"{block}attn.proj", width, width)
        names |= linear_shapes(f"{block}mlp.fc1", width, 4 * width)
        names |= linear_shapes(f"{block}mlp.fc2", 4 * width, width)
    windows, area = (GRID // WINDOW) ** 2, WINDOW * WINDOW
    names["swin_block.block_2.attn_mask"] = (windows, area, area)
    for part in "qk":
        inputs = width + config.text_guidance
        names |= linear_shapes(f"attention.attention.{part}", inputs, width)
    names |= linear_shapes("attention.attention.v", width, width)
    names |= linear_shapes("attention.MLP.0", width, 4 * width)
    names |= linear_shapes("attention.MLP.2", 4 * width, width)
    names |= norm_shapes("attention.norm1", width) | norm_shapes("attention.norm2", width)
    names["attention.padding_tokens"] = (1, 1, width)
    names["attention.padding_guidance"] = (1, 1, config.text_guidance)
    return names


def converted(tensors: dict[str, Tensor], config: CatSegConfig) -> dict[str, Tensor]:
    """Return tensors of `layout(config)` under our names and in our shapes."""
    last = f"{_VISION}{config.clip.layers - 1}."
    clip = {
        key.removeprefix(_CLIP): value
        for key, value in tensors.items()
        if key.startswith(_CLIP) and not key.startswith(last)
    }
    named = renamed(_fused_projections(clip))
    named |= {f"last.{name}": value for name, value in _last_block(tensors, last).items()}
    for index, factor in enumerate(LIFTS):
        prefix = f"upsample{index + 1}."
        weight = tensors[f"{prefix}weight"].flatten(1).t()
        named[f"lifts.{index}.linear.weight"] = weight
        named[f"lifts.{index}.linear.bias"] = tensors[f"{prefix}bias"].repeat_interleave(factor**2)
    head = {
        key.removeprefix(_HEAD): value for key, value in tensors.items() if key.startswith(_HEAD)
    }
    return named | _aggregation(head, config) | _decoder(head, config)


def _fused_projections(clip: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return open_clip's names, which have one matrix for q, k and v."""
    fused: dict[str, Tensor] = {}
    for key, value in clip.items():
        if key.endswith("attn.q_proj_weight"):
            parts = [clip[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            fused[key.replace("q_proj", "in_proj")] = torch.cat(parts)
        elif not key.endswith(("attn.k_proj_weight", "attn.v_proj_weight")):
            fused[key] = value
    return fused


def _last_block(tensors: dict[str, Tensor], last: str) -> dict[str, Tensor]:
    """Return CLIP's last block without q and k, which dense features do not need."""
    out = tensors[f"{last}attn.out_proj.weight"].double()
    value = tensors[f"{last}attn.v_proj_weight"].double()
    bias = tensors[f"{last}attn.in_proj_bias"].chunk(3)[2].double()
    named = {
        "mix.weight": (out @ value).float(),
        "mix.bias": (out @ bias + tensors[f"{last}attn.out_proj.bias"].double()).float(),
    }
    for theirs, ours in (
        ("ln_1", "ln_1"),
        ("ln_2", "ln_2"),
        ("mlp.c_fc", "fc"),
        ("mlp.c_proj", "proj"),
    ):
        for kind in ("weight", "bias"):
            named[f"{ours}.{kind}"] = tensors[f"{last}{theirs}.{kind}"]
    return named


def _aggregation(head: dict[str, Tensor], config: CatSegConfig) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        named[f"embed.{kind}"] = head[f"conv1.{kind}"]
        named[f"guide.{kind}"] = head[f"guidance_projection.0.{kind}"]
        named[f"guide_words.{kind}"] = head[f"text_guidance_projection.0.{kind}"]
        named[f"head.{kind}"] = head[f"head.{kind}"]
        for index in range(len(LIFTS)):
            value = head[f"decoder_guidance_projection.{index}.0.{kind}"]
            named[f"guide_fine.{index}.{kind}"] = value
    for index in range(config.layers):
        theirs, ours = f"layers.{index}.", f"layers.{index}."
        for kind in ("weight", "bias"):
            named[f"{ours}guidance_norm.{kind}"] = head[f"{theirs}swin_block.guidance_norm.{kind}"]
        for block, target in (("block_1", "straight"), ("block_2", "moved")):
            found = _block(head, f"{theirs}swin_block.{block}.", "attn.", ("mlp.fc1", "mlp.fc2"))
            found |= _renamed_linear(head, f"{theirs}swin_block.{block}.attn.proj", "out")
            named |= {f"{ours}{target}.{name}": value for name, value in found.items()}
        found = _block(head, f"{theirs}attention.", "attention.", ("MLP.0", "MLP.2"))
        found["padding"] = head[f"{theirs}attention.padding_tokens"][None]
        found["padding_guidance"] = head[f"{theirs}attention.padding_guidance"][0]
        named |= {f"{ours}words.{name}": value for name, value in found.items()}
    return named


def _renamed_linear(head: dict[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    return {f"{ours}.{kind}": head[f"{theirs}.{kind}"] for kind in ("weight", "bias")}


def _block(
    head: dict[str, Tensor], prefix: str, attention: str, feed_forward: tuple[str, str]
) -> dict[str, Tensor]:
    """Return norms, feed-forward and q, k, v of a block, with the guidance in a matrix of its own."""
    named: dict[str, Tensor] = {}
    pairs = (
        ("norm1", "norm_1"),
        ("norm2", "norm_2"),
        *zip(feed_forward, ("fc", "proj"), strict=True),
    )
    for theirs, ours in pairs:
        named |= _renamed_linear(head, f"{prefix}{theirs}", ours)
    weights = [head[f"{prefix}{attention}{part}.weight"] for part in "qkv"]
    width = len(weights[2])
    named["qkv.weight"] = torch.cat([weight[:, :width] for weight in weights])
    named["qkv.bias"] = torch.cat([head[f"{prefix}{attention}{part}.bias"] for part in "qkv"])
    named["guide.weight"] = torch.cat([weight[:, width:] for weight in weights[:2]])
    return named


def _decoder(head: dict[str, Tensor], config: CatSegConfig) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for index, factor in enumerate(LIFTS):
        prefix, target = f"decoder{index + 1}.", f"ups.{index}."
        up = head[f"{prefix}up.weight"].double()
        wide = up.shape[1]
        conv = head[f"{prefix}conv.double_conv.0.weight"].double()
        bias = head[f"{prefix}up.bias"].double()[None, :, None, None]
        side = GRID * factor
        border = F.conv2d(bias.expand(-1, -1, side, side), conv[:, :wide], padding=1)
        named[f"{target}corner.weight"] = merged_corner(up, conv[:, :wide]).float()
        named[f"{target}guide.weight"] = conv[:, wide:].float()
        named[f"{target}border"] = border.float()
        named[f"{target}conv.weight"] = head[f"{prefix}conv.double_conv.3.weight"]
        for theirs, ours in (("1", "norm_1"), ("4", "norm_2")):
            named |= _renamed_linear(head, f"{prefix}conv.double_conv.{theirs}", f"{target}{ours}")
    return named


def merged_corner(up: Tensor, conv: Tensor) -> Tensor:
    """Return the 2x2 kernel [4 out, in, 2, 2] that is `conv` after the transposed convolution `up`.

    up: [in, mid, 2, 2], stride 2; conv: [out, mid, 3, 3], padded by 1. The corner between coarse
    cells 0 and 1 has fine cells 1 and 2 of the four below it, p = 0 and 1; offset d of the 3x3 reads
    fine cell p + d of them, which is part (p + d) % 2 of coarse cell (p + d) // 2. Channels are in the
    order of pixel_shuffle.
    """
    merged = up.new_zeros(len(conv), 2, 2, len(up), 2, 2)
    for p in range(2):
        for q in range(2):
            for dy in range(3):
                for dx in range(3):
                    (u, a), (v, b) = divmod(p + dy, 2), divmod(q + dx, 2)
                    merged[:, p, q, :, u, v] += conv[:, :, dy, dx] @ up[:, :, a, b].t()
    return merged.reshape(-1, len(up), 2, 2)
