"""Files of CLIP weights: what a tag or a file says of itself, where it comes from, whose it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadInputError, shown
from dedos_deploy.files import sha256_of_file
from dedos_deploy.model.hub_files import HubFile, fetch_problem
from dedos_deploy.presets import ClipConfig

QUICK = "-quickgelu"
"""End of the names of open_clip's architectures that compute QuickGELU."""

_HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Where a tag's repository keeps its weights, unless the tag names another; older ones have the second
alone."""

_PUBLISHERS = {
    "openai": ("MIT", "OpenAI, github.com/openai/CLIP (MIT)"),
    "laion": ("MIT", "LAION, github.com/mlfoundations/open_clip (MIT)"),
    "datacomp": ("MIT", "DataComp, github.com/mlfoundations/datacomp (MIT)"),
    "commonpool": ("MIT", "DataComp, github.com/mlfoundations/datacomp (MIT)"),
}
"""Licence and publisher, by the beginning of a tag; others have terms of their own."""


@dataclass(frozen=True)
class ClipFacts:
    """What a tag, or the configuration beside a file, says of its weights; None where nothing does."""

    quick_gelu: bool | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class ClipFile:
    """A file of CLIP weights."""

    path: Path
    licence: str
    """Of the weights."""
    credit: str
    """Whose they are."""
    sha256: str
    """Of the file."""

    @property
    def record(self) -> dict[str, Any]:
        """What a checkpoint or a bundle that holds these weights passes on."""
        return {"licence": self.licence, "sources": [self.credit]}


def clip_facts(open_clip: ModuleType, clip: ClipConfig, pretrained: str) -> ClipFacts:
    """Return what a tag, or the configuration beside a file, says of the weights.

    Raises BadInputError for what is neither a file nor a tag of this size of CLIP, and for a
    configuration that cannot be read.
    """
    if Path(pretrained).is_file():
        return _facts_beside(Path(pretrained))
    told = _tag(open_clip, clip, pretrained)
    if not told:
        tags = open_clip.list_pretrained_tags_by_model(clip.architecture)
        raise BadInputError(
            f"CLIP weights {pretrained!r} are neither a file nor a tag of {clip.architecture}; "
            f"tags: {', '.join(tags) or 'none'}"
        )
    return ClipFacts(bool(told.get("quick_gelu", False)), told.get("mean"), told.get("std"))


def clip_file(open_clip: ModuleType, clip: ClipConfig, pretrained: str) -> ClipFile:
    """Return the file itself, or that of a tag, fetched unless it is cached.

    Raises BadInputError naming the file to bring when it cannot be fetched, and the one to delete when
    it is not what was published.
    """
    if Path(pretrained).is_file():
        path = Path(pretrained)
        credit = f"CLIP weights of the file {path.name}"
        return ClipFile(path, "not stated by the file", credit, sha256_of_file(path))
    file = tag_file(open_clip, clip, pretrained)

    def refusal(reason: str) -> BadInputError:
        return BadInputError(
            f"CLIP weights {pretrained!r} for {clip.architecture} could not be fetched ({reason}); "
            f"bring {file.names[0]} of {file.home} to this machine and give it as --clip-weights FILE"
        )

    with foreign(refusal, reason=fetch_problem):
        path = file.fetch()
    licence, publisher = terms(pretrained, file)
    credit = f"CLIP {clip.architecture} {pretrained!r}: {publisher}"
    return ClipFile(path, licence, credit, file.checked(path))


def terms(tag: str, file: HubFile) -> tuple[str, str]:
    """Return the licence and the publisher of a tag's weights, or where they are stated."""
    publishers = (facts for name, facts in _PUBLISHERS.items() if tag.startswith(name))
    return next(publishers, (f"see {file.home}", file.home))


def tag_file(open_clip: ModuleType, clip: ClipConfig, tag: str) -> HubFile:
    """Return where the weights of a tag lie. Raises BadInputError when this open_clip does not know."""
    repository, _, name = _tag(open_clip, clip, tag).get("hf_hub", "").rpartition("/")
    if not repository:
        raise BadInputError(
            f"open_clip {open_clip.__version__} names no repository of huggingface.co for {tag!r} of "
            f"{clip.architecture}; run: pip install -U open_clip_torch, or give a file"
        )
    return HubFile(repository, (name,) if name else _HUB_FILES)


def _tag(open_clip: ModuleType, clip: ClipConfig, tag: str) -> dict[str, Any]:
    # The tags of both activations stand under the plain name only.
    told: dict[str, Any] = open_clip.get_pretrained_cfg(clip.architecture.removesuffix(QUICK), tag)
    return told


def _facts_beside(weights: Path) -> ClipFacts:
    for name, library, read in _CONFIGURATIONS:
        path = weights.with_name(name)
        if path.is_file():
            return _read_facts(path, library, read)
    return ClipFacts()


def _read_facts(path: Path, library: str, read: Callable[[Path, Any], ClipFacts]) -> ClipFacts:
    def refusal(reason: str) -> BadInputError:
        return BadInputError(
            f"{str(path)!r} beside the CLIP weights is not a configuration of {library} ({reason}); "
            "fetch it again, or move the weights away from it"
        )

    with foreign(refusal):
        return read(path, json.loads(path.read_text(encoding="utf-8")))


def _open_clip_facts(_: Path, told: Any) -> ClipFacts:
    seen = told.get("preprocess_cfg", {})
    mean, std = (_three(seen[name]) if name in seen else None for name in ("mean", "std"))
    return ClipFacts(bool(told["model_cfg"].get("quick_gelu", False)), mean, std)


def _transformers_facts(path: Path, told: Any) -> ClipFacts:
    if told.get("model_type") != "clip":
        return ClipFacts()
    # Where a configuration names none, QuickGELU is meant.
    text, vision = (
        told.get(tower, {}).get("hidden_act", "quick_gelu")
        for tower in ("text_config", "vision_config")
    )
    if text != vision or text not in _ACTIVATIONS:
        raise BadInputError(
            f"{str(path)!r} beside the CLIP weights says that the text tower computes {shown(text)} and "
            f"the picture tower {shown(vision)}, but both must compute {' or '.join(_ACTIVATIONS)}, and "
            "the same; take other weights"
        )
    preprocessing = path.with_name("preprocessor_config.json")
    seen = json.loads(preprocessing.read_text(encoding="utf-8")) if preprocessing.is_file() else {}
    mean, std = (
        _three(seen[name]) if name in seen else None for name in ("image_mean", "image_std")
    )
    return ClipFacts(_ACTIVATIONS[text], mean, std)


_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
"""Whether it is QuickGELU, by transformers' names."""

_CONFIGURATIONS = (
    ("open_clip_config.json", "open_clip", _open_clip_facts),
    ("config.json", "transformers", _transformers_facts),
)
"""Files that may stand beside weights, whose they are, and what reads them."""


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
