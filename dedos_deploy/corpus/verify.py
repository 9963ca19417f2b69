"""The proof that a data set is whole: every input frame once, every hash right, every label map readable."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dedos_deploy.corpus.beginning import manifest_of
from dedos_deploy.corpus.dataset import Corpus, open_corpus
from dedos_deploy.corpus.manifest import Manifest, Piece, frame_key
from dedos_deploy.corpus.records import LabelledFrame, PartNotes, frame_of, part_name, schema
from dedos_deploy.errors import BadInputError
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.threads import usable_cores

if TYPE_CHECKING:
    import os

MOST_SAID = 1000
"""Sentences that are kept; the numbers count all."""


@dataclass
class Verdict:
    """What was found in a data set, or in one shard of it."""

    frames: int = 0
    """Frames of the view: keys, each counted once."""

    missing: int = 0
    """Frames that the inputs have and the view has not, beyond those that could not be read."""

    unreadable: int = 0
    """Frames that could not be read, as far as their number is known."""

    duplicates: int = 0
    """Rows whose key another row has, too; the view gives one of them."""

    wrong: int = 0
    """Rows with a hash, label map or key that is not right."""

    problems: list[str] = field(default_factory=list)
    """Sentences, at most MOST_SAID."""

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def say(self, text: str) -> None:
        """Add a sentence of what is wrong."""
        if len(self.problems) < MOST_SAID:
            self.problems.append(text)

    def add(self, other: Verdict) -> None:
        """Add what was found in another shard."""
        for name in ("frames", "missing", "unreadable", "duplicates", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for text in other.problems:
            self.say(text)


def verify_corpus(path: str | os.PathLike[str], *, progress: Progress = QUIET) -> Verdict:
    """Return what is wrong with the data set in a folder. Raises BadInputError where there is none."""
    verdict = Verdict()
    with open_corpus(path) as corpus:
        manifest = manifest_of(corpus.folder)
        parts = _by_shard(corpus, manifest, verdict)
        # Decoding, which is most of it, lets other threads run.
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="dedos-verify") as pool:
            checks = pool.map(
                lambda shard: _ShardCheck(corpus, manifest.pieces(shard)).check(
                    shard, parts.get(shard)
                ),
                range(len(manifest)),
            )
            for found in progress.counted(checks, len(manifest), "shard"):
                verdict.add(found)
    return verdict


def _by_shard(corpus: Corpus, manifest: Manifest, verdict: Verdict) -> dict[int, list[str]]:
    """Return the parts of every shard, in the order in which the view takes them."""
    parts: dict[int, list[str]] = {}
    for name in corpus.parts:
        try:
            with corpus.opened(name) as (shard, _):
                pass
        except BadInputError as error:
            verdict.say(str(error))
            continue
        if shard < len(manifest):
            parts.setdefault(shard, []).append(name)
            continue
        verdict.wrong += 1
        verdict.say(f"part {name!r} is of shard {shard}, and the manifest has no such; remove it")
    return parts


class _ShardCheck:
    """Holds the rows of one shard against its pieces."""

    def __init__(self, corpus: Corpus, pieces: list[Piece]) -> None:
        self._corpus = corpus
        self._pieces = {piece.source: piece for piece in pieces}
        self._seen: set[str] = set()
        self._found = Verdict()
        self._notes = PartNotes()

    def check(self, shard: int, names: list[str] | None) -> Verdict:
        """Return what was found. names: of its parts."""
        found = self._found
        if not names:
            found.missing += max(1, sum(piece.expected or 0 for piece in self._pieces.values()))
            found.say(f"shard {shard} is not labelled: {part_name(shard)!r} is missing")
            return found
        try:
            for name in names:
                notes = self._corpus.notes(name)
                self._notes.errors += notes.errors
                self._notes.ends.update(notes.ends)
                for values in self._corpus.part(name, schema().names):
                    self._row(name, frame_of(values))
        except BadInputError as error:
            found.say(str(error))
        for piece in self._pieces.values():
            self._look_for_missing(shard, piece)
        found.frames = len(self._seen)
        return found

    def _row(self, name: str, row: LabelledFrame) -> None:
        if row.key in self._seen:
            self._found.duplicates += 1
            if self._found.duplicates == 1:
                self._found.say(
                    f"{row.key!r} is there twice, the second time in {name!r}; remove that"
                )
            return
        self._seen.add(row.key)
        wrong = "; ".join(self._wrong_with(row))
        if wrong:
            self._found.wrong += 1
            self._found.say(f"{row.key!r} in {name!r}: {wrong}")

    def _wrong_with(self, row: LabelledFrame) -> Iterator[str]:
        piece, info = self._pieces.get(row.source), self._corpus.info
        if piece is None or row.frame not in piece.wanted:
            yield "no frame of this shard"
        if row.key != frame_key(row.source, row.frame):
            yield "its key is not that of its source and frame"
        if row.bundle_sha256 != info.bundle_sha256:
            yield f"labelled by another bundle ({row.bundle_sha256[:12]})"
        if row.words_sha256 != info.words_sha256:
            yield f"labelled with other words ({row.words_sha256[:12]})"
        try:
            label_map, _ = row.label_map, row.confidence
        except BadInputError as error:
            yield str(error)
            return
        ids, counts = np.unique(label_map, return_counts=True)
        named = ids != info.none_id
        if (tuple(ids[named].tolist()), tuple(counts[named].tolist())) != (
            row.class_ids,
            row.counts,
        ):
            yield "its counts are not those of its label map"
        if not set(row.class_ids) <= set(info.names):
            yield "it has ids that no class has"

    def _look_for_missing(self, shard: int, piece: Piece) -> None:
        end = self._notes.ends.get(piece.source)
        failed = [error for error in self._notes.errors if error["source"] == piece.source]
        ranges = [range(e["frame"], e["stop"] or 2**62) for e in failed if "error" in e]
        stop = min([x for x in (piece.stop, end) if x is not None], default=None)
        if stop is None:
            # A source that failed before anybody knew how long it is.
            stop = min((one.start for one in ranges if one.stop == 2**62), default=None)
        if stop is None:
            self._found.missing += 1
            self._found.say(f"shard {shard}: nobody has met the end of {piece.source!r}")
            return
        for number in range(piece.start, stop, piece.step):
            if frame_key(piece.source, number) in self._seen:
                continue
            if any(number in one for one in ranges):
                self._found.unreadable += 1
            else:
                self._found.missing += 1
                self._found.say(f"frame {number} of {piece.source!r} is missing from shard {shard}")
