"""One small data set for all tests of formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("pycocotools")

from corpora import Labelled, blobs, write_corpus, write_pictures


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Labelled]:
    paths = write_pictures(tmp_path_factory.mktemp("pictures") / "pictures", 3)
    random = np.random.default_rng(9)
    return [
        Labelled(
            path,
            blobs(number),
            (0.4, 0.1, 0.3)[number],
            random.integers(0, 256, (48, 64), dtype=np.uint8),
        )
        for number, path in enumerate(paths)
    ]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, frames: list[Labelled]) -> Path:
    """A data set of three frames."""
    return write_corpus(tmp_path_factory.mktemp("data") / "set", frames)
