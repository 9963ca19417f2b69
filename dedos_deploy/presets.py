"""Model presets: one table of frozen configurations, from the paper's sizes to `nano`, and one of
the dense heads that need no training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dedos_deploy.config_limits import (
    CLIP_LIMITS,
    MODEL_LIMITS,
    TEXT_LIMITS,
    check_heads,
    check_limits,
    check_size,
)
from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.head_numbers import Head, ScClipHead, WindowConfig, sc_clip_head

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

Activation = Literal["quick_gelu", "gelu"]
PixelDecoderKind = Literal["msdeform", "fpn"]
AggregationKind = Literal["none", "light", "catseg"]
CostKind = Literal["light", "catseg"]
"""Strengths of the cost aggregation that a preset may have."""
ClipTune = Literal["none", "ln", "qv", "all"]
QuerySource = Literal["bank", "mixed", "clip"]
DetailKind = Literal["conv", "mobile"]

VOLUME_HEADS = 4
"""Attention heads of CAT-Seg's blocks over a cost volume, which divide its channels."""


@dataclass(frozen=True)
class TextTowerConfig:
    """Text tower of CLIP: `width` channels, `layers` blocks, `heads` heads."""

    width: int
    layers: int
    heads: int
    context_length: int = 77
    tokens: int = 49408

    def __post_init__(self) -> None:
        check_limits(self, "clip.text.", TEXT_LIMITS)
        check_heads("clip.text.width", self.width, "clip.text.heads", self.heads)


@dataclass(frozen=True)
class ClipConfig:
    """A CLIP model with a ViT trunk."""

    architecture: str
    """open_clip's name, or `dedos-nano` for our own small one."""
    patch: int
    width: int
    layers: int
    heads: int
    grid: int
    """Side of the square position-embedding grid it was trained with."""
    text_width: int
    """D, of text embeddings."""
    text: TextTowerConfig
    activation: Activation = "quick_gelu"
    mean: tuple[float, float, float] = OPENAI_MEAN
    """RGB in [0, 1] units, as in open_clip's preprocessing."""
    std: tuple[float, float, float] = OPENAI_STD
    """In the units of `mean`."""

    def __post_init__(self) -> None:
        check_limits(self, "clip.", CLIP_LIMITS)
        check_heads("clip.width", self.width, "clip.heads", self.heads)
        if not all(0 < value < 10 for value in self.std):
            raise BadInputError(f"clip.std must lie in (0, 10), not {self.std}")


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the shape of a DEDOS model."""

    preset: str
    clip: ClipConfig
    size_hw: tuple[int, int]
    """Default network size."""
    refine_blocks: tuple[int, ...]
    """Indices of the trunk blocks followed by the refinement of Eq. 13-14."""
    pixel_decoder: PixelDecoderKind
    pixel_layers: int
    decoder_layers: int
    queries: int = 100
    """n of Eq. 6."""
    query_width: int = 256
    """c of Eq. 6."""
    basic_kernel: tuple[int, int] = (25, 64)
    """(n1, c1) of Eq. 6."""
    diffusion_kernel: tuple[int, int] = (4, 4)
    """(n2, c2) of Eq. 6; n1 n2 is n and c1 c2 is c."""
    steps: int = 3
    """N of Eq. 7."""
    refine_norm: bool = True
    """LayerNorm before Eq. 13 (False: the literal formula)."""
    detail_width: int = 0
    """Channels of the convolutional branch that gives the pixel decoder stride-4 and stride-8
    detail which a plain ViT lacks (0: none)."""
    detail: DetailKind = "conv"
    """What that branch is: `conv` learned with the rest, or `mobile`, a pretrained net that stays
    as it is and has widths of its own."""
    pixel_ffn: int = 1024
    aggregation: AggregationKind = "light"
    """One `light` layer, or CAT-Seg's windows and words (`catseg`)."""
    aggregation_width: int = 16
    """Channels of its volume."""
    decoder_heads: int = 8
    decoder_ffn: int = 2048
    text_blocks: int = 1
    clip_tune: ClipTune = "none"
    """Which parts of the trunk training may change."""
    query_source: QuerySource = "bank"
    """A picture's queries at inference: one constant `bank`, several banks `mixed` by the picture's CLS
    token, or the bank after reading the picture's `clip` tokens."""
    query_sets: int = 1
    """M, the number of banks that `mixed` has."""

    def __post_init__(self) -> None:
        check_limits(self, "", MODEL_LIMITS)
        check_heads("query_width", self.query_width, "decoder_heads", self.decoder_heads)
        if self.aggregation == "catseg":
            check_heads("aggregation_width", self.aggregation_width, "heads", VOLUME_HEADS)
        (n1, c1), (n2, c2) = self.basic_kernel, self.diffusion_kernel
        if min(n1, c1, n2, c2) < 1:
            raise BadInputError(
                f"kernels must have sides of at least 1, not {self.basic_kernel} and "
                f"{self.diffusion_kernel}"
            )
        if (n1 * n2, c1 * c2) != (self.queries, self.query_width):
            raise BadInputError(
                f"kernels {self.basic_kernel} and {self.diffusion_kernel} give "
                f"{n1 * n2}x{c1 * c2} proxy queries, not {self.queries}x{self.query_width}"
            )
        if (self.query_source == "mixed") != (self.query_sets > 1):
            raise BadInputError(
                f"query_sets is {self.query_sets} with query_source {self.query_source}; `mixed` has 2 "
                "at least, and the others have 1"
            )
        if self.query_source != "bank" and not self.refine_blocks:
            raise BadInputError(
                f"query_source {self.query_source} makes queries at refined blocks, of which there are "
                "none; give refine_blocks, or take bank"
            )
        if any(not 0 <= block < self.clip.layers for block in self.refine_blocks):
            raise BadInputError(
                f"refine_blocks {self.refine_blocks} must lie in [0, {self.clip.layers})"
            )
        self.check_size(self.size_hw)

    def check_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return `size_hw` if both sides are positive multiples of the patch, at least 2 patches.

        Raises BadInputError naming the nearest size that fits.
        """
        return check_size(self.preset, self.clip.patch, size_hw)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `config_json.config_from_dict` is the inverse."""
        return asdict(self)


@dataclass(frozen=True)
class DenseConfig:
    """A CLIP that labels every pixel by a head without training."""

    preset: str
    clip: ClipConfig
    size_hw: tuple[int, int]
    """Default network size."""
    head: Head
    """Which head, and its numbers."""
    tau: float = 40.0
    """Factor of the cosines before the softmax over words."""
    windows: WindowConfig | None = None
    """How a large picture is looked through; None: the whole at once."""
    null_words: tuple[str, ...] = ()
    """Words of the null rows, set by the export."""
    null_limit: float = 1.0
    """Cosine with a user's word from which a null row is left out."""

    def __post_init__(self) -> None:
        if self.clip.layers < 2:
            raise BadInputError(f"a dense head needs a trunk of 2 blocks, not {self.clip.layers}")
        if isinstance(self.head, ScClipHead):
            used = (self.head.similar, self.head.shallow, *self.head.summed)
            if any(not 1 <= block < self.clip.layers for block in used):
                raise BadInputError(
                    f"sc-clip reads the blocks {used}, which must lie in [1, {self.clip.layers})"
                )
        if not 0 < self.tau <= 1000:
            raise BadInputError(f"tau must lie in (0, 1000], not {self.tau}")
        self.check_size(self.size_hw)

    def seen_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the pixels that the trunk sees at a time: a window, or all."""
        return size_hw if self.windows is None else (self.windows.size, self.windows.size)

    def check_size(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return `size_hw` if the patch and the windows fit and the head finds patches enough.

        Raises BadInputError that says what would fit.
        """
        patch = self.clip.patch
        check_size(self.preset, patch, size_hw)
        if self.windows is not None:
            self.windows.check(size_hw)
        seen = check_size(self.preset, patch, self.seen_hw(size_hw))
        patches = (seen[0] // patch) * (seen[1] // patch)
        if isinstance(self.head, ScClipHead) and patches <= self.head.neighbours:
            raise BadInputError(
                f"sc-clip compares each patch with {self.head.neighbours} others, and "
                f"{seen[0]}x{seen[1]} has {patches} in all; choose a larger size or window, or "
                f"another head"
            )
        return size_hw

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `config_json.any_config_from_dict` is the inverse."""
        return asdict(self)


_CLIP_B16 = ClipConfig(
    "ViT-B-16-quickgelu", 16, 768, 12, 12, grid=14, text_width=512, text=TextTowerConfig(512, 12, 8)
)
_CLIP_L14 = ClipConfig(
    "ViT-L-14-quickgelu",
    14,
    1024,
    24,
    16,
    grid=16,
    text_width=768,
    text=TextTowerConfig(768, 12, 12),
)
_CLIP_NANO = ClipConfig(
    "dedos-nano",
    16,
    192,
    6,
    6,
    grid=14,
    text_width=384,
    text=TextTowerConfig(128, 3, 4, context_length=32),
    activation="gelu",
)

_PAPER_L = ModelConfig(
    preset="paper-l",
    clip=_CLIP_L14,
    size_hw=(644, 644),
    refine_blocks=tuple(range(24)),
    pixel_decoder="msdeform",
    pixel_layers=6,
    decoder_layers=9,
)
_PAPER_B = replace(
    _PAPER_L,
    preset="paper-b",
    clip=_CLIP_B16,
    size_hw=(640, 640),
    refine_blocks=tuple(range(12)),
)
_EDGE_B = replace(
    _PAPER_B,
    preset="edge-b",
    size_hw=(448, 448),
    refine_blocks=(2, 5, 8, 11),
    pixel_decoder="fpn",
    pixel_layers=0,
    decoder_layers=3,
    decoder_ffn=1024,
    detail_width=32,
)
_EDGE_L = replace(_EDGE_B, preset="edge-l", clip=_CLIP_L14, refine_blocks=(5, 11, 17, 23))
_MINIATURE = replace(
    _EDGE_B,
    preset="miniature",
    clip=_CLIP_NANO,
    size_hw=(240, 320),
    refine_blocks=(1, 3, 5),
    queries=50,
    query_width=128,
    basic_kernel=(25, 32),
    diffusion_kernel=(2, 4),
    decoder_ffn=256,
    clip_tune="all",
)

_NANO = replace(_MINIATURE, preset="nano", detail="mobile", detail_width=0)

PRESETS: dict[str, ModelConfig] = {
    config.preset: config for config in (_PAPER_L, _PAPER_B, _EDGE_L, _EDGE_B, _NANO, _MINIATURE)
}

_PAPER, _CAT_SEG_WIDTH = "paper-", 128
"""Begins the presets with a choice; channels of CAT-Seg's cost volume."""


def why_one_cost(preset: str) -> str | None:
    """Return why the strength of `preset`'s cost aggregation cannot be chosen, None where it can."""
    if preset.startswith(_PAPER):
        return None
    several = [name for name in PRESETS if name.startswith(_PAPER)]
    return f"preset {preset} has one form of cost aggregation; take {' or '.join(several)}"


def with_cost(config: ModelConfig, cost: CostKind) -> ModelConfig:
    """Return a preset with that strength of cost aggregation, BadInputError if it has one only."""
    reason = why_one_cost(config.preset)
    if reason is not None:
        raise BadInputError(f"cost {cost} has no effect: {reason}, or leave --cost out")
    if cost == "light":
        return config
    return replace(config, aggregation=cost, aggregation_width=_CAT_SEG_WIDTH)


_DENSE_B = DenseConfig("dense-b", _CLIP_B16, (448, 448), sc_clip_head(12))
_DENSE_L = DenseConfig("dense-l", _CLIP_L14, (448, 448), sc_clip_head(24))


def _gelu(config: DenseConfig) -> DenseConfig:
    architecture = config.clip.architecture.removesuffix("-quickgelu")
    clip = replace(config.clip, architecture=architecture, activation="gelu")
    return replace(config, preset=f"{config.preset}-gelu", clip=clip)


DENSE_PRESETS: dict[str, DenseConfig] = {
    config.preset: config for config in (_DENSE_L, _DENSE_B, _gelu(_DENSE_L), _gelu(_DENSE_B))
}
"""CLIPs that need no training: OpenAI's (QuickGELU), and the same sizes for LAION's and DataComp's."""


def any_preset(name: str) -> ModelConfig | DenseConfig:
    """Return the preset called `name`, of either table.

    Raises BadInputError that lists the presets and the nearest name.
    """
    known: dict[str, ModelConfig | DenseConfig] = {**PRESETS, **DENSE_PRESETS}
    if name in known:
        return known[name]
    raise BadInputError(
        f"unknown preset {name!r}{nearest(name, known) or ';'} presets: {', '.join(known)}"
    )


def get_preset(name: str) -> ModelConfig:
    """Return the preset of a DEDOS model called `name`.

    Raises BadInputError that lists the presets and the nearest name, or says that the preset has no
    such model.
    """
    config = any_preset(name)
    if isinstance(config, ModelConfig):
        return config
    raise BadInputError(
        f"preset {name!r} is a CLIP with a head without training, and a DEDOS model is needed here; "
        f"presets: {', '.join(PRESETS)}"
    )
