"""A tiny valid bundle: the bundle layer does not parse graphs, so their bytes are arbitrary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dedos_deploy.bundle import BundleWriter, Manifest
from dedos_deploy.presets import PRESETS
from dedos_deploy.spec import GraphSpec

CONTENTS = {
    "model.onnx": bytes(range(256)) * 8,
    "text_encoder.onnx": b"text tower",
    "tokenizer.json": b"{}",
    "report.json": b'{"agreement": 1.0}',
    "engines/rtx.bin": b"engine",
}
WORDS = ("road", "car", "tree")


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DEDOS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def manifest() -> Manifest:
    config = PRESETS["nano"]
    return Manifest(
        preset="nano",
        config=config.to_dict(),
        spec=GraphSpec(height=240, width=320, text_width=config.clip.text_width),
        target="cpu",
        precision={"image": "fp32", "text": "fp16"},
        activation="gelu",
        template_name="single",
        templates=["A photo of a {} in the scene"],
        context_length=config.clip.text.context_length,
        thresholds={"car": 0.4},
        default_threshold=0.3,
        checkpoint_sha256="0f" * 32,
        tools={"dedos-deploy": "0.1.0"},
        sources=["procedural scenes"],
        licence="Apache-2.0",
        created="2026-01-02T03:04:05+00:00",
        base_vocabulary="base",
    )


@pytest.fixture
def embeddings() -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(len(WORDS), 384)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def write(manifest: Manifest, embeddings: np.ndarray) -> Callable[..., Path]:
    """Write the tiny bundle to a place and return the place."""

    def write_bundle(dest: Path, *, overwrite: bool = False, model: bytes | None = None) -> Path:
        with BundleWriter(dest, overwrite=overwrite) as writer:
            for name, content in CONTENTS.items():
                writer.add_bytes(name, model if model and name == "model.onnx" else content)
            writer.add_vocabulary("base", WORDS, embeddings)
            return writer.commit(manifest)

    return write_bundle


@pytest.fixture
def folder(tmp_path: Path, write: Callable[..., Path]) -> Path:
    return write(tmp_path / "tiny")


@pytest.fixture
def archive(tmp_path: Path, write: Callable[..., Path]) -> Path:
    return write(tmp_path / "tiny.dedos")
