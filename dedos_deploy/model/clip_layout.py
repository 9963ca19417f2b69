"""Names and shapes of a CLIP as checkpoints store it, and its sizes read back from them."""

from __future__ import annotations

import math
from collections.abc import Set

from dedos_deploy.errors import BadInputError
from dedos_deploy.model.tensor_files import Shapes, difference
from dedos_deploy.presets import ClipConfig, TextTowerConfig

SCALE = "logit_scale"
"""The temperature of CLIP's own training, a number that labels do not depend on."""

_HEAD_WIDTH = 64
"""Channels of an attention head in every published CLIP; shapes do not say it."""

_KNOWN = {
    (768, 12, 16): ("-b", "ViT-B-16-quickgelu"),
    (1024, 24, 14): ("-l", "ViT-L-14-336-quickgelu"),
}


def dims(shapes: Shapes, key: str, rank: int) -> tuple[int, ...]:
    """Return the shape of `key`; raises BadInputError with the reason when it cannot be."""
    if key not in shapes:
        raise BadInputError(f"{key} is missing")
    if len(shapes[key]) != rank or min(shapes[key]) < 1:
        raise BadInputError(f"{key} is {list(shapes[key])}, which needs {rank} axes")
    return shapes[key]


def blocks_in(shapes: Shapes, prefix: str, member: str = "ln_1.weight") -> int:
    """Return how many blocks `prefix`0, `prefix`1, … there are."""
    count = 0
    while f"{prefix}{count}.{member}" in shapes:
        count += 1
    return count


def square_side(shapes: Shapes, key: str, tokens: int, others: int) -> int:
    """Return the side of the square grid of `tokens` positions, `others` of which are not of it."""
    side = math.isqrt(max(tokens - others, 0))
    if side * side + others != tokens:
        raise BadInputError(f"{key} is {list(shapes[key])}, whose positions form no square")
    return side


def text_config(shapes: Shapes, prefix: str) -> TextTowerConfig:
    """Return the text tower stored under `prefix`."""
    tokens, width = dims(shapes, f"{prefix}token_embedding.weight", 2)
    context, _ = dims(shapes, f"{prefix}positional_embedding", 2)
    layers = blocks_in(shapes, f"{prefix}transformer.resblocks.")
    return TextTowerConfig(width, layers, max(1, width // _HEAD_WIDTH), context, tokens)


def clip_config(
    shapes: Shapes, visual: str, text: str, *, layers: int, heads: int | None = None
) -> ClipConfig:
    """Return the CLIP whose picture tower is stored under `visual` and its text tower under `text`.

    heads: of the picture tower, 64 channels each if None.
    """
    width, _, patch, _ = dims(shapes, f"{visual}conv1.weight", 4)
    position = f"{visual}positional_embedding"
    grid = square_side(shapes, position, dims(shapes, position, 2)[0], 1)
    _, text_width = dims(shapes, f"{text}text_projection", 2)
    return ClipConfig(
        architecture=_KNOWN.get((width, layers, patch), ("", "ViT"))[1],
        patch=patch,
        width=width,
        layers=layers,
        heads=heads or max(1, width // _HEAD_WIDTH),
        grid=grid,
        text_width=text_width,
        text=text_config(shapes, text),
    )


def size_name(clip: ClipConfig) -> str:
    """Return `-b` or `-l` for the published sizes, "" for any other."""
    return _KNOWN.get((clip.width, clip.layers, clip.patch), ("", ""))[0]


def clip_shapes(clip: ClipConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of `clip` that is needed, as open_clip calls them."""
    shapes = {**under("visual.", visual_shapes(clip)), **text_shapes(clip)}
    del shapes[SCALE]
    towers = (("visual.", clip.width, clip.layers), ("", clip.text.width, clip.text.layers))
    for tower, width, layers in towers:
        block = block_shapes(width, fused=True)
        for index in range(layers):
            shapes.update(under(f"{tower}transformer.resblocks.{index}.", block))
    return shapes


def clip_misfit(
    clip: ClipConfig, wanted: Shapes, found: Shapes, unused: Set[str], *, positions: str
) -> str | None:
    """Return in what `found` differs from what `clip` needs, None if in nothing; see `difference`.

    positions: the name of the picture tower's, which are told apart where only they are of another size:
    open_clip would resize them without a word.
    """
    problem = difference(wanted, found, unused)
    shape = found.get(positions, ())
    alike = {**found, positions: wanted[positions]}
    if len(shape) != 2 or shape[0] < 2 or problem is None or difference(wanted, alike, unused):
        return problem
    seen, needed = (math.isqrt(count - 1) * clip.patch for count in (shape[0], clip.grid**2 + 1))
    return f"it was trained on pictures of {seen}x{seen}, not of {needed}x{needed}"


def visual_shapes(clip: ClipConfig) -> dict[str, tuple[int, ...]]:
    """Return the picture tower without its blocks, under open_clip's names inside `visual.`."""
    width = clip.width
    return {
        "class_embedding": (width,),
        "positional_embedding": (clip.grid**2 + 1, width),
        "conv1.weight": (width, 3, clip.patch, clip.patch),
        **norm_shapes("ln_pre", width),
        **norm_shapes("ln_post", width),
        "proj": (width, clip.text_width),
    }


def text_shapes(clip: ClipConfig) -> dict[str, tuple[int, ...]]:
    """Return the text tower without its blocks, under open_clip's names."""
    text = clip.text
    return {
        "token_embedding.weight": (text.tokens, text.width),
        "positional_embedding": (text.context_length, text.width),
        **norm_shapes("ln_final", text.width),
        "text_projection": (text.width, clip.text_width),
        SCALE: (),
    }


def block_shapes(width: int, *, fused: bool) -> dict[str, tuple[int, ...]]:
    """Return one transformer block under open_clip's names; fused: q, k and v are one matrix."""
    projections: dict[str, tuple[int, ...]] = (
        {"attn.in_proj_weight": (3 * width, width)}
        if fused
        else {f"attn.{part}_proj_weight": (width, width) for part in "qkv"}
    )
    return {
        **projections,
        "attn.in_proj_bias": (3 * width,),
        **linear_shapes("attn.out_proj", width, width),
        **norm_shapes("ln_1", width),
        **norm_shapes("ln_2", width),
        **linear_shapes("mlp.c_fc", width, 4 * width),
        **linear_shapes("mlp.c_proj", 4 * width, width),
    }


def norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    """Return weight and bias of a LayerNorm or GroupNorm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear_shapes(
    name: str, inputs: int, outputs: int, kernel: tuple[int, ...] = ()
) -> dict[str, tuple[int, ...]]:
    """Return weight and bias of a linear layer or, with a kernel, of a convolution."""
    return {f"{name}.weight": (outputs, inputs, *kernel), f"{name}.bias": (outputs,)}


def under(prefix: str, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Return `shapes` with `prefix` before every name."""
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}
