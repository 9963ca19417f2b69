"""Published benchmarks: class lists, label handling and layouts on disk, as their authors have them.

`protocols.json` holds the facts. A class list is kept as published, odd spaces and commas included,
with its source and the SHA-256 of its lines; a protocol says which list it scores, where files lie
and what their values mean. How names become words to ask for is `words_of`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.vocabulary import canonical_word

_FILE = Path(__file__).parent / "protocols.json"

MESS = "MESS/"
"""Protocols of the MESS benchmark are called MESS/<data set>."""


@dataclass(frozen=True)
class ClassList:
    """Names as published."""

    name: str
    classes: tuple[str, ...]
    source: str
    """Where the names come from."""
    sha256: str
    """Hash of the names joined by newlines."""
    notes: str = ""
    every_word: bool = False
    """Whether published figures ask for every word of a class, not for the first alone."""

    @property
    def digest(self) -> str:
        """SHA-256 of the names as they are here."""
        return hashlib.sha256("\n".join(self.classes).encode()).hexdigest()


@dataclass(frozen=True)
class Layout:
    """Where the files of a protocol lie, below a root, and what label values mean."""

    images: str
    """Folder of the images, searched with those inside it."""
    labels: str
    """Folder of the label files, searched with those inside it."""
    image_suffix: str
    """End of the names of images, before which those of their labels agree."""
    label_suffix: str
    """End of the names of label files."""
    first: int = 0
    """Label value of class 0, the others following."""
    map: dict[str, int] | None = None
    """Class of each label value where that is not `value - first`."""
    ignored: tuple[int, ...] = (255,)
    """Label values that are not counted."""
    listed: str | None = None
    """A file of names, one per line, that the split consists of (None: all labels there are)."""


@dataclass(frozen=True)
class Protocol:
    """One benchmark."""

    name: str
    classes: ClassList
    """The list that is asked for."""
    obtain: str
    """Where the data comes from."""
    layouts: tuple[Layout, ...]
    """The first layout whose folders are there is read."""
    folded: tuple[str, int] | None = None
    """(name, n) when predictions of class n and later all count as one class of that name."""
    unlabelled: int | None = None
    """The class called background, which pixels without an answer count as; None where such a pixel
    is wrong."""
    threshold: float | None = None
    """Score in [0, 1] below which published figures leave a pixel without an answer, None where they
    label every pixel."""
    images: int | None = None
    """How many the split has, where published figures stand beside results."""
    domain: str | None = None
    """Domain of MESS, where the benchmark is one of its data sets."""

    @property
    def scored(self) -> tuple[str, ...]:
        """Names of the classes that labels have, cleaned of spaces at their ends.

        A class of which every word is asked for is called by the first.
        """
        names = [name.strip() for name in self.classes.classes]
        if self.classes.every_word:
            names = [name.partition(",")[0] for name in names]
        if self.unlabelled is not None:
            names[self.unlabelled] = "background"
        if self.folded is not None:
            names[self.folded[1] :] = [self.folded[0]]
        return tuple(names)


@lru_cache(maxsize=1)
def protocols() -> dict[str, Protocol]:
    """Return all protocols by name."""
    values: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    lists = {
        name: ClassList(
            name,
            tuple(one["classes"]),
            one["source"],
            one["sha256"],
            one.get("notes", ""),
            one.get("every_word", False),
        )
        for name, one in values["lists"].items()
    }
    return {
        name: Protocol(
            name,
            lists[one["classes"]],
            one["obtain"],
            tuple(_layout(layout, values["maps"]) for layout in one["layouts"]),
            tuple(one["folded"]) if "folded" in one else None,
            one.get("unlabelled"),
            one.get("threshold"),
            one.get("images"),
            one.get("domain"),
        )
        for name, one in values["protocols"].items()
    }


def _layout(values: dict[str, Any], maps: dict[str, dict[str, int]]) -> Layout:
    """Return a layout, its label values taken from `maps` where it names one of them."""
    changed: dict[str, Any] = {"ignored": tuple(values.get("ignored", (255,)))}
    if isinstance(values.get("map"), str):
        changed["map"] = maps[values["map"]]
    return Layout(**{**values, **changed})


def find_protocol(name: str) -> Protocol:
    """Return a protocol; letter case does not matter. Raises BadInputError for an unknown one."""
    known = {key.lower(): protocol for key, protocol in protocols().items()}
    found = known.get(name.lower())
    if found is None:
        raise BadInputError(
            f"unknown protocol {name!r}{nearest(name, protocols())}; known: {', '.join(protocols())}"
        )
    return found


def words_of(
    classes: ClassList, *, synonyms: bool | None
) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Return the words to ask for, as (class, words), of every class that has one of its own.

    Names are split at commas, stripped and written in lower case.
    synonyms: None for what published figures ask for. Without synonyms only the first word of a class
    counts, as CAT-Seg and the paper do it; where an earlier class has that word already, the two share
    one text embedding, so the later one can never win and is not asked for. With synonyms a class has
    those of its words that are no other class's first one, and that no earlier class has. Figures that
    ask for every word give it to the first class that has it, whose embedding wins the tie.
    """
    split = [[word.strip() for word in name.split(",")] for name in classes.classes]
    firsts = [words[:1] for words in split]
    if synonyms is None:
        rounds = [split] if classes.every_word else [firsts]
    else:
        # First words first: what one class is called, no other may have as a mere synonym.
        rounds = [firsts, split] if synonyms else [firsts]
    owner: dict[str, int] = {}
    for choice in rounds:
        for index, words in enumerate(choice):
            for word in words:
                owner.setdefault(canonical_word(word), index)
    found = []
    for index, words in enumerate(split):
        kept = dict.fromkeys(canonical_word(word) for word in words)
        own = tuple(word for word in kept if owner.get(word) == index)
        if own:
            found.append((index, own))
    return tuple(found)


MESS_DOMAINS = {
    "General": 6,
    "Earth Monitoring": 5,
    "Medical Sciences": 4,
    "Engineering": 4,
    "Agriculture and Biology": 3,
}
"""Data sets in each domain of MESS; the four parts of PAXRay count as one."""


def mess_means(scores: dict[str, float]) -> dict[str, float]:
    """Return the mean of every domain whose data sets are all there, and of all 22 as "Mean".

    scores: by protocol name, as MESS scores them: mean IoU over classes in labels or predictions
    (miou_union). The four parts of PAXRay are averaged first.
    """
    known = protocols()
    sets: dict[str, dict[str, list[float]]] = {domain: {} for domain in MESS_DOMAINS}
    for name, score in scores.items():
        domain = known[name].domain
        if domain is not None:
            whole = name.partition("_")[0] if name.startswith(f"{MESS}paxray_") else name
            sets[domain].setdefault(whole, []).append(score)
    means: dict[str, float] = {}
    every: list[float] = []
    for domain, count in MESS_DOMAINS.items():
        parts = sets[domain]
        complete = len(parts) == count and len(parts.get(f"{MESS}paxray", [0.0] * 4)) == 4
        if complete:
            each = [sum(values) / len(values) for values in parts.values()]
            means[domain] = sum(each) / count
            every += each
    if len(means) == len(MESS_DOMAINS):
        means["Mean"] = sum(every) / len(every)
    return means
