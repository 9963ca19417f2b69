"""A real CLIP tokenizer and a text tower small enough to check by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_tower import CONTEXT, ROWS, WIDTH, Tower, tower_model


@pytest.fixture(scope="session")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("open_clip")
    from dedos_deploy.text import write_tokenizer_json

    return write_tokenizer_json(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json", CONTEXT)


@pytest.fixture(scope="session")
def tower_weights() -> tuple[np.ndarray, np.ndarray]:
    """A table of ROWS embeddings, [ROWS, WIDTH], and a weight per position, [CONTEXT]."""
    rng = np.random.default_rng(7)
    table = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    return table, rng.normal(size=CONTEXT).astype(np.float32)


@pytest.fixture(scope="session")
def tower_onnx(
    tmp_path_factory: pytest.TempPathFactory, tower_weights: tuple[np.ndarray, np.ndarray]
) -> Path:
    """embedding = Σ over positions of weight[position] · table[token mod ROWS]."""
    path = tmp_path_factory.mktemp("tower") / "text_encoder.onnx"
    onnx.save(tower_model(*tower_weights), path)
    return path


@pytest.fixture(scope="session")
def tower_numpy(tower_weights: tuple[np.ndarray, np.ndarray]) -> Tower:
    """The same tower in float64."""
    table, weights = tower_weights

    def run(tokens: np.ndarray) -> np.ndarray:
        return np.einsum("l,nld->nd", weights.astype(np.float64), table[tokens % ROWS])

    return run
