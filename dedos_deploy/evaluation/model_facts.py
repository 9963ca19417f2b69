"""What an evaluation remembers of a model, to tell how a published figure of it was made otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dedos_deploy.config_json import AnyConfig
from dedos_deploy.peer_configs import CatSegConfig, SanConfig
from dedos_deploy.presets import DenseConfig

_METHODS = {"sc-clip": "SC-CLIP", "naclip": "NACLIP", "maskclip": "MaskCLIP"}
"""What papers call the dense heads."""


def model_facts(
    config: AnyConfig, sources: Sequence[str], size_hw: tuple[int, int]
) -> dict[str, Any]:
    """Return what a published figure can differ in, as JSON values.

    config: of the model; sources: what its weights learned from, as a manifest has it; size_hw: the
    network's.
    """
    facts: dict[str, Any] = {
        "method": _method(config),
        "tower": re.sub(r"^(ViT-\w+)-(\d+)(-quickgelu)?$", r"\1/\2", config.clip.architecture),
        "weights": _weights(sources),
        "preset": config.preset,
        "size_hw": list(size_hw),
        "windows": None,
    }
    if isinstance(config, DenseConfig):
        windows = config.windows
        facts["windows"] = None if windows is None else f"{windows.size}/{windows.stride}"
        facts["tau"] = config.tau
        facts["null_words"] = len(config.null_words)
    return facts


def _method(config: AnyConfig) -> str:
    if isinstance(config, DenseConfig):
        return _METHODS[config.head.kind]
    return {SanConfig: "SAN", CatSegConfig: "CAT-Seg"}.get(type(config), "DEDOS")


def _weights(sources: Sequence[str]) -> str:
    """Return the tag of open_clip weights, else what the sources say."""
    tags = (re.match(r"CLIP \S+ '([^']+)'", source) for source in sources)
    named = next((tag[1] for tag in tags if tag), None)
    return named or "; ".join(sources) or "random or not stated"
