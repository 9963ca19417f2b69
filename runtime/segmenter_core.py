"""What all vocabularies on one engine share."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from dedos_deploy.confidence_curves import ConfidenceCurves
from dedos_deploy.errors import BadBundleError
from dedos_deploy.runtime.engines.contract import Engine
from dedos_deploy.runtime.labelling import HostLabeller, Labeller, StableLabeller
from dedos_deploy.runtime.learning import Embedder, Open
from dedos_deploy.runtime.processes import OneProcess
from dedos_deploy.runtime.slots import (
    Encode,
    Rows,
    SlotTable,
    Thresholds,
    build_table,
    check_slots,
    rows_of,
    spare_slots,
)
from dedos_deploy.runtime.tiled_labelling import TiledLabeller
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.text.negatives import close_similarity, negatives
from dedos_deploy.trust import TrustStatistics
from dedos_deploy.vocabulary import Vocabulary

_LOG = logging.getLogger(__name__)
BaseVocabulary = tuple[Sequence[str], Rows]


@dataclass(frozen=True, eq=False)
class CoreParts:
    """What all vocabularies on one engine share besides the engine; each as of `Segmenter`."""

    encode: Encode
    thresholds: Thresholds
    base: BaseVocabulary | None
    threads: int | None
    stable: bool
    tiling: Tiling
    model_sha256: str | None
    explain: bool
    nulls: bool
    curves: ConfidenceCurves | None
    open_embedding: Open
    trust: TrustStatistics | None


class SegmenterCore:
    """What all vocabularies on one engine share; one frame at a time."""

    def __init__(self, engine: Engine, parts: CoreParts) -> None:
        """engine: stays the caller's. Raises BadBundleError for one that takes several frames at a time."""
        if engine.spec.batch != 1:
            raise BadBundleError(
                f"this bundle's graph takes {engine.spec.batch} frames at a time, Segmenter needs 1; "
                "export it again"
            )
        self._engine, self._parts = engine, parts
        self._encode = parts.encode
        self.explain, self.model_sha256 = parts.explain, parts.model_sha256
        # As many as there are until the first words are encoded: no frame waits for them.
        self.text_threads = parts.threads
        self.embedder = Embedder(parts.open_embedding)
        # Once here, since it compares all pairs of base words: too slow for every class change.
        self._close = close_similarity(parts.base[1]) if parts.base is not None else None
        self.busy = threading.Lock()
        self._open_labellers()
        self.process = OneProcess("Segmenter", engine, parts.encode, self.labeller, self.embedder)

    def _open_labellers(self) -> None:
        """Open what labels frames, one by one and several in a run."""
        from dedos_deploy.threads import usable_threads

        engine, stable, tiling = self._engine, self._parts.stable, self._parts.tiling
        cores = usable_threads(self._parts.threads)
        self._on_host = _host_labeller(engine, tiling, threads=cores, stable=stable)
        with contextlib.ExitStack() as opened:
            self.labeller = self._on_host or engine.labeller(threads=cores)
            opened.callback(self.labeller.close)
            # A run of windows is one frame's.
            self.run_labellers = (
                engine.run_labellers(threads=cores, on_host=stable) if tiling.is_off else {}
            )
            opened.pop_all()

    def close(self) -> None:
        """Release what frames are labelled with; the engine is its owner's."""
        with contextlib.ExitStack() as closing:
            closing.callback(self.labeller.close)
            closing.callback(self.embedder.close)
            for labeller in self.run_labellers.values():
                closing.callback(labeller.close)

    def labeller_of_a_view(self) -> Labeller:
        """Return what labels a stream of frames; of stable ones each has a past of its own."""
        if self._on_host is not None and self._parts.stable:
            return StableLabeller(self._on_host)
        return self.labeller

    def encode(self, vocabulary: Vocabulary, timeout_s: float | None) -> Rows:
        """Return the rows of a vocabulary's words; new ones take their time, with few threads."""
        self.check_slots(len(vocabulary.words))
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        if vocabulary.tuned is not None:
            vocabulary.tuned.check_model(self.model_sha256, self._engine.spec.text_width)
        encode = partial(self._encode, deadline_s=deadline_s, threads=self.text_threads)
        return rows_of(vocabulary, encode)

    def check_slots(self, words: int) -> None:
        """Raise BadInputError where so many words do not fit the engine."""
        check_slots(words, self._engine.max_slots)

    def next_table(
        self, vocabulary: Vocabulary, rows: Rows, previous: SlotTable | None
    ) -> SlotTable:
        return build_table(
            vocabulary,
            previous,
            rows=rows,
            thresholds=self._parts.thresholds,
            negatives=self._negatives_for(vocabulary.words, rows),
            nulls=self._parts.nulls,
            curves=self._parts.curves,
            trust=self._parts.trust,
        )

    def _negatives_for(self, user_words: Sequence[str], user: Rows) -> BaseVocabulary:
        if self._parts.base is None:
            return (), np.empty((0, self._engine.spec.text_width), dtype=np.float32)
        words, rows = self._parts.base
        chosen = negatives(
            user,
            words,
            rows,
            limit=spare_slots(len(user_words), len(words), self._engine.max_slots),
            user_words=user_words,
            similarity=self._close,
        )
        return [words[index] for index in chosen], rows[chosen]


def _host_labeller(
    engine: Engine, tiling: Tiling, *, threads: int, stable: bool
) -> HostLabeller | None:
    """Return what labels on the host where frames must be labelled there, None where they need not.

    Where the engine could label on a GPU a line of the log says so, as frames take longer.
    """
    if tiling.is_off and not stable:
        return None
    if engine.labels_on_device:
        why = (
            "labels that are stable in time are made there"
            if tiling.is_off
            else "windows of a frame are blended there"
        )
        _LOG.warning("frames are resized and labelled on the CPU: %s", why)
    if tiling.is_off:
        return engine.host_labeller(threads=threads)
    return TiledLabeller(engine.spec, engine.runs(), tiling, threads=threads)
