"""What a data set begins with: its description, and its manifest, which every later run goes on with."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from dedos_deploy.corpus.dataset import Corpus, read_info
from dedos_deploy.corpus.folders import Folder, folder_at
from dedos_deploy.corpus.inputs import Counted, counted, sources_in
from dedos_deploy.corpus.labelling import Job
from dedos_deploy.corpus.manifest import (
    MANIFEST_FILE,
    Manifest,
    cut,
    frames_per_shard,
    manifest_bytes,
    wanted_pieces,
)
from dedos_deploy.corpus.records import (
    FORMAT_VERSION,
    INFO_FILE,
    LABELS,
    CorpusClass,
    CorpusInfo,
    part_name,
)
from dedos_deploy.corpus.versions import Versions, changed_sources
from dedos_deploy.errors import BadInputError
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.sinks.palette import colour_bgr, colours_of, css_colour
from dedos_deploy.runtime.sources.excerpt import Part
from dedos_deploy.spec import none_id

ERRORS_FILE = "errors.jsonl"
CHANGED = "has changed since it was listed; what was labelled before that is of what it was"
MOST_NAMED = 1000
"""Sources that have changed; the warning counts all."""

_PART = re.compile(rf"{LABELS}/part-(\d+)\.parquet")
_READ_AT_ONCE = 8


@dataclass(frozen=True)
class Wanted:
    """Which frames are to be labelled. Raises BadInputError for what can be none."""

    inputs: tuple[str, ...]
    """As `inputs.sources_in` takes them."""

    every: int = 1
    """One frame in so many, of recordings, Parquet files, tars, and the pictures of an input."""

    most: int | None = None
    """Frames in all, None for no limit."""

    shard_frames: int | None = None
    """Frames of a shard, None for what suits the corpus."""

    workers: int = 1
    """How many will label it, who should all have shards to the end."""

    def __post_init__(self) -> None:
        Part(self.every)
        for name, value in (("max-frames", self.most), ("shard-frames", self.shard_frames)):
            if value is not None and value < 1:
                raise BadInputError(f"--{name} must be at least 1, not {value}")


def describe(job: Job, wanted: Wanted) -> CorpusInfo:
    """Return the description of the data set that a job makes."""
    entries = job.vocabulary.entries
    chosen = {entry.name: colour_bgr(entry.colour) for entry in entries if entry.colour is not None}
    colours = colours_of(job.vocabulary.names, chosen)
    classes = tuple(
        CorpusClass(number, entry.name, css_colour(colour), entry.spelled)
        for number, (entry, colour) in enumerate(zip(entries, colours, strict=True))
    )
    return CorpusInfo(
        format_version=FORMAT_VERSION,
        bundle=job.bundle,
        bundle_sha256=job.bundle_sha256,
        words_sha256=job.words_sha256,
        classes=classes,
        none_id=none_id(len(classes)),
        settings={
            "inputs": list(wanted.inputs),
            "every": wanted.every,
            "max_frames": wanted.most,
            "background": job.background,
            "threshold": job.threshold,
            "tiles": job.tiles,
            "confidence": job.confidence,
        },
    )


@dataclass(frozen=True)
class Begun:
    """A data set that shards are labelled into."""

    folder: Folder
    info: CorpusInfo
    manifest: Manifest

    new: bytes | None
    """Content of a manifest that is not written yet, None where it is."""

    is_described: bool
    """Whether the description is there, as it may be without a manifest where a run ended just then."""

    changed: tuple[str, ...] = ()
    """Sources that are not what they were when the data set was begun, at most MOST_NAMED."""

    def write(self) -> None:
        """Write what a new data set begins with, for whoever has an engine that runs.

        Raises SinkError, and BadInputError where another run has begun one there meanwhile.
        """
        if self.new is None:
            return
        with self.folder.held() as is_alone:
            # Its shards may be others, and parts of both would be one data set.
            if not (is_alone and self._is_first(self.new)):
                raise BadInputError(
                    f"another run has begun a data set in {self.folder.address!r} at the same time; run the "
                    "same command again to go on with it, or give another --output"
                )

    def _is_first(self, manifest: bytes) -> bool:
        """Write description and manifest; return whether no other run has written one of them before.

        Whoever writes the manifest goes on. It comes last: one without a description would be of nobody
        knows which inputs, while a description without one is what the next run begins with.
        """
        described = self.is_described or self.folder.write_new(
            INFO_FILE, self.info.to_json().encode()
        )
        return described and self.folder.write_new(MANIFEST_FILE, manifest)

    def shards_done(self) -> frozenset[int]:
        """Return the shards whose part is there."""
        matches = (_PART.fullmatch(name) for name in self.folder.names(LABELS))
        numbers = {int(match[1]) for match in matches if match is not None}
        return frozenset(number for number in numbers if number < len(self.manifest))

    def errors_of(self, shards: Collection[int]) -> list[Mapping[str, Any]]:
        """Return what is wrong with sources, as of PartNotes: before there were shards, and in some of them."""
        corpus = Corpus(self.folder, self.info)
        odd = [{"source": source, "warning": CHANGED} for source in self.changed]
        with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="dedos-read") as pool:
            notes = pool.map(corpus.notes, map(part_name, sorted(shards)))
            return [
                *odd,
                *self.manifest.errors,
                *(error for note in notes for error in note.errors),
            ]

    def write_errors(self, errors: Iterable[Mapping[str, Any]]) -> None:
        """Write all that could not be read into `errors.jsonl`, a JSON object a line. Raises SinkError."""
        lines = (json.dumps(error, ensure_ascii=False) + "\n" for error in errors)
        self.folder.write(ERRORS_FILE, "".join(lines).encode())


def begin(job: Job, wanted: Wanted, progress: Progress = QUIET) -> Begun:
    """Return a data set to label into: a new one, of which nothing is written yet, or the one that is there.

    Raises BadInputError for inputs that name nothing, and for a data set of another bundle, other words
    or other options.
    """
    folder, info = folder_at(job.output), describe(job, wanted)
    # Before the description, which is written first: another run may be beginning just now.
    written = folder.read(MANIFEST_FILE)
    is_described = _is_described(folder, info, written)
    if written is not None:
        manifest = Manifest(written, repr(folder.where(MANIFEST_FILE)))
        changed = _changed(manifest, wanted, progress)
        return Begun(folder, info, manifest, None, True, changed)
    with progress.part(1, 2, "listing the inputs"):
        content = listing(wanted, progress)
    manifest = Manifest(content, repr(MANIFEST_FILE))
    return Begun(folder, info, manifest, content, is_described)


def _changed(manifest: Manifest, wanted: Wanted, progress: Progress) -> tuple[str, ...]:
    """Return the sources that have changed since they were listed, and warn of them."""
    found = changed_sources(manifest, Versions(wanted.inputs))
    named = tuple(islice(found, MOST_NAMED))
    if named:
        count = len(named) + sum(1 for _ in found)
        others = f" and {count - 1} more {'have' if count > 2 else 'has'}" if count > 1 else " has"
        progress.warn(
            f"{named[0]!r}{others} changed since the data set was begun, see {ERRORS_FILE}; rows that are "
            "there stay: to label them again, remove their parts"
        )
    return named


def _is_described(folder: Folder, info: CorpusInfo, manifest: bytes | None) -> bool:
    """Return whether a data set was begun there with the same job; refuse what is another one's.

    manifest: content of its manifest, None where there is none.
    """
    found = read_info(folder)
    if found is None and manifest is not None:
        raise BadInputError(
            f"{folder.address!r} has a {MANIFEST_FILE} and no {INFO_FILE}; give another --output"
        )
    if found is not None:
        _check_same(folder, found, info)
    if manifest is None and folder.names(LABELS):
        missing = INFO_FILE if found is None else MANIFEST_FILE
        raise BadInputError(
            f"{folder.address!r} has a folder {LABELS} with files and no {missing}; give another "
            "--output"
        )
    return found is not None


def manifest_of(folder: Folder) -> Manifest:
    """Return the manifest of a data set. Raises BadInputError."""
    content = folder.read(MANIFEST_FILE)
    if content is None:
        raise BadInputError(
            f"{folder.where(MANIFEST_FILE)!r} is missing; run dedos-label once more to go on, or make a "
            "new data set"
        )
    return Manifest(content, repr(folder.where(MANIFEST_FILE)))


def _check_same(folder: Folder, found: CorpusInfo, info: CorpusInfo) -> None:
    differs = _difference(found, info)
    if differs is not None:
        raise BadInputError(
            f"{folder.address!r} holds a data set that was labelled with {differs}; give the same to go "
            "on with it, or another --output for a new one"
        )


def _difference(found: CorpusInfo, asked: CorpusInfo) -> str | None:
    if found.bundle_sha256 != asked.bundle_sha256:
        return f"another bundle ({found.bundle!r}, {found.bundle_sha256[:12]})"
    if found.words_sha256 != asked.words_sha256:
        return f"other words ({', '.join(entry.entry for entry in found.classes)[:80]})"
    for name, value in asked.settings.items():
        if found.settings.get(name) != value:
            given = json.dumps(found.settings.get(name), ensure_ascii=False)[:200]
            return f"other {name.replace('_', ' ')} ({given})"
    return None


def listing(wanted: Wanted, progress: Progress) -> bytes:
    """Return the content of a new manifest. Raises BadInputError."""
    versions = Versions(wanted.inputs)
    sources = [
        (number, source)
        for number, item in enumerate(wanted.inputs)
        for source in sources_in(item, versions.listed_at)
    ]
    found: list[tuple[int, Counted]] = []
    counts = counted(source for _, source in sources)
    for (number, _), item in zip(
        sources, progress.counted(counts, len(sources), "source"), strict=True
    ):
        found.append((number, replace(item, stamp=versions.of(item.source))))
    errors = [item for _, item in found if item.error]
    pieces = list(wanted_pieces(found, every=wanted.every, most=wanted.most))
    if not pieces:
        why = f": {errors[0].error}" if errors else ""
        raise BadInputError(f"the inputs have no frame that can be labelled{why}")
    frames = sum(piece.expected or 0 for piece in pieces)
    size = wanted.shard_frames or frames_per_shard(frames, wanted.workers)
    return manifest_bytes(cut(pieces, size), errors)
