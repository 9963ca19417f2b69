"""Which sizes of a model are allowed: limits of its numbers, heads that divide widths, sides that fit."""

from __future__ import annotations

from dedos_deploy.errors import BadInputError

# The largest values of published models, with room: what a file claims is allocated when it is read.
TEXT_LIMITS = {
    "width": (1, 8192),
    "layers": (1, 128),
    "heads": (1, 128),
    "context_length": (3, 4096),
    "tokens": (2, 1 << 20),
}
CLIP_LIMITS = {
    "patch": (1, 64),
    "width": (1, 8192),
    "layers": (1, 128),
    "heads": (1, 128),
    "grid": (1, 256),
    "text_width": (1, 8192),
}
MODEL_LIMITS = {
    "pixel_layers": (0, 64),
    "decoder_layers": (1, 64),
    "queries": (1, 4096),
    "query_width": (1, 8192),
    "steps": (1, 1000),
    "query_sets": (1, 64),
    "detail_width": (0, 1024),
    "pixel_ffn": (1, 65536),
    "aggregation_width": (1, 512),
    "decoder_heads": (1, 128),
    "decoder_ffn": (1, 65536),
    "text_blocks": (0, 64),
}


def check_limits(config: object, prefix: str, limits: dict[str, tuple[int, int]]) -> None:
    """Raise BadInputError for the first attribute outside its limits, both of which are allowed."""
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if value < low:
            raise BadInputError(f"{prefix}{name} must be at least {low}, not {value}")
        if value > high:
            raise BadInputError(f"{prefix}{name} must be at most {high}, not {value}")


def check_heads(name: str, width: int, heads_name: str, heads: int) -> None:
    """Raise BadInputError unless `heads` divide `width`."""
    if width % heads:
        raise BadInputError(f"{name} {width} must be a multiple of {heads_name}, {heads}")


def check_size(preset: str, patch: int, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return `size_hw` if `preset` fits it, else raise BadInputError with the nearest size that does."""
    if all(side >= 2 * patch and side % patch == 0 for side in size_hw):
        return size_hw
    near = tuple(max(2 * patch, round(side / patch) * patch) for side in size_hw)
    raise BadInputError(
        f"size {size_hw[0]}x{size_hw[1]} does not fit {preset}, whose sides must be "
        f"multiples of its patch {patch} and at least {2 * patch}; the nearest is "
        f"{near[0]}x{near[1]}"
    )
