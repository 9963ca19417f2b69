"""What is to be evaluated, named but not opened: bundles, checkpoints, nets, under choices of text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.data import EvaluationData
from dedos_deploy.evaluation.looking import AS_DEPLOYED, Looking
from dedos_deploy.evaluation.predictors import (
    NetPredictor,
    Predictor,
    open_bundle_predictor,
    open_checkpoint_predictor,
)
from dedos_deploy.files import read_regular
from dedos_deploy.vocabulary import Entry, Vocabulary, canonical_word

if TYPE_CHECKING:
    from dedos_deploy.spec import Background

Kind = Literal["bundle", "checkpoint", "net"]


@dataclass(frozen=True)
class Running:
    """How predictors run: engine of bundles, device and network size of checkpoints, what may leave
    a pixel unlabelled, CPU threads (None: one per core), and how bundles and checkpoints look at pictures.
    """

    engine: str = "cpu"
    device: str = "cpu"
    size_hw: tuple[int, int] | None = None
    background: Background = "none"
    threshold: float | None = None
    threads: int | None = None
    looking: Looking = AS_DEPLOYED


@dataclass(frozen=True)
class NetWords:
    """What a net of fixed classes knows: words by channel, and which of them mean a class."""

    words: tuple[str, ...]
    joined: Mapping[str, Sequence[str]]
    """Name of a class -> words of the net, for classes that are not one of its words."""


@dataclass(frozen=True)
class Subject:
    """One thing to evaluate."""

    kind: Kind
    """What is evaluated."""
    path: str
    """Where the bundle, checkpoint or net is."""
    template: str | None = None
    """Prompt templates, None for the model's own."""
    synonyms: bool | None = None
    """Whether to ask for synonyms, None as the data has it."""
    net: NetWords | None = None
    """Words of a net; given for that kind alone."""
    tuned: bool | None = None
    """Whether a words file's rows are used, None as the data has it."""

    @property
    def name(self) -> str:
        """Name for people, without what is usual."""
        own = Path(self.path).stem if self.kind != "checkpoint" else _run_name(Path(self.path))
        parts = [own]
        if self.template is not None:
            parts.append(self.template)
        if self.synonyms is not None:
            parts.append("synonyms" if self.synonyms else "no synonyms")
        if self.tuned is not None:
            parts.append("tuned words" if self.tuned else "words")
        return ", ".join(parts)

    def named(self, looking: Looking) -> str:
        """Return the name with how it looks at pictures, where that is not as deployed."""
        return ", ".join((self.name, *(looking.named if self.kind != "net" else ())))

    def open(self, vocabulary: Vocabulary, running: Running, name: str | None = None) -> Predictor:
        """Return the predictor, called `name` if given.

        Raises BadInputError for what cannot be used as asked.
        """
        name = name or self.named(running.looking)
        if self.tuned is False:
            vocabulary = replace(vocabulary, tuned=None)
        if self.kind == "net":
            assert self.net is not None
            return NetPredictor(
                self.path,
                self.net.words,
                vocabulary,
                joined=self.net.joined,
                threads=running.threads,
                name=name,
            )
        if self.kind == "checkpoint":
            return open_checkpoint_predictor(
                self.path,
                vocabulary,
                size_hw=running.size_hw,
                background=running.background,
                threshold=0.5 if running.threshold is None else running.threshold,
                template=self.template,
                device=running.device,
                threads=running.threads,
                looking=running.looking,
                name=name,
            )
        return open_bundle_predictor(
            self.path,
            vocabulary,
            engine=running.engine,
            background=running.background,
            threshold=running.threshold,
            template=self.template,
            threads=running.threads,
            looking=running.looking,
            name=name,
        )


def base_names(vocabulary: Vocabulary, taught: frozenset[str] | None) -> frozenset[str] | None:
    """Return the names of entries one of whose words was taught, None when all or none were."""
    if taught is None:
        return None
    names = {entry.name for entry in vocabulary.entries if _known(entry, taught)}
    return frozenset(names) if 0 < len(names) < len(vocabulary) else None


def base_classes(data: EvaluationData, taught: frozenset[str] | None) -> frozenset[str] | None:
    """Return the classes of the data whose entries `base_names` gives, None as there.

    A benchmark may call a class otherwise than its first word, and put several into one.
    """
    names = base_names(data.vocabulary, taught)
    if names is None:
        return None
    ids = np.arange(len(data.vocabulary), dtype=np.uint16)[None]
    classes = zip(data.vocabulary.names, data.fold(ids)[0].tolist(), strict=True)
    return frozenset(data.classes[index] for name, index in classes if name in names)


def _known(entry: Entry, taught: frozenset[str]) -> bool:
    return any(canonical_word(word) in taught for word in entry.words)


def _run_name(path: Path) -> str:
    """Return the folder's name for a run's checkpoint, which is always called the same."""
    return path.resolve().parent.name if path.stem == "checkpoint" else path.stem


def read_net_words(path: Path) -> NetWords:
    """Return what a JSON file says of a net: {"words": [...], "classes": {"name": ["word", ...]}}.

    Raises BadInputError when it cannot be read or says something else.
    """
    try:
        values: Any = json.loads(read_regular(path).decode())
        words = tuple(str(word) for word in values["words"])
        joined = {str(n): tuple(map(str, w)) for n, w in values.get("classes", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInputError(
            f"{str(path)!r} does not describe a net ({error!r}); write JSON such as "
            '{"words": ["road", "person"], "classes": {"pedestrian": ["person"]}}'
        ) from error
    if not words:
        raise BadInputError(f"{str(path)!r} names no words; give one for every channel of the net")
    return NetWords(words, joined)
