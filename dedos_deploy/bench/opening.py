"""Bundles opened as `dedos-run` opens them, tiles, trust and curves included, but with words that cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from dedos_deploy.bundle import Bundle
from dedos_deploy.runtime.engines.contract import Engine, EngineOptions
from dedos_deploy.runtime.loading import bundle_parts, open_engine_of
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.slots import Encode, Rows


def open_segmenter(bundle: Bundle, target: str, options: EngineOptions) -> tuple[Segmenter, Engine]:
    """Return a segmenter that labels every pixel, with its engine, which it closes.

    Words that the bundle does not ship have made-up embeddings: in use all are cached.
    bundle: stays open; target, options: as of `open_engine`. Raises as `Segmenter.load` does.
    """
    parts = bundle_parts(bundle, background="none", threshold=None)
    with ExitStack() as opened:
        engine = open_engine_of(parts, target, options)
        opened.callback(engine.close)
        segmenter = Segmenter.of_parts(
            replace(parts, encode=_encode_of(bundle)),
            engine,
            classes=["word 0"],
            threads=options.threads,
        )
        opened.pop_all()
    return segmenter, engine


def made_up_rows(count: int, width: int, chance: np.random.Generator) -> Rows:
    """Return unit rows float32 [count, width]."""
    rows = chance.standard_normal((count, width)).astype(np.float32)
    unit: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _encode_of(bundle: Bundle) -> Encode:
    known, width = bundle.known_embeddings(), bundle.spec.text_width
    chance = np.random.default_rng(0)

    def encode(words: Sequence[str], **_: object) -> Rows:
        rows = made_up_rows(len(words), width, chance)
        for row, word in enumerate(words):
            rows[row] = known.get(word, rows[row])
        return rows

    return encode
