"""Bundles of a few hundred bytes that libdedos opens, whole or damaged, for tests and as seeds of a fuzzer."""

from __future__ import annotations

import hashlib
import io
import json
import string
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from dedos_deploy.bundle import TRUST
from dedos_deploy.text.tokenizer import _SPLIT, END, START
from dedos_deploy.trust import Kind, fit_trust, trust_to_bytes
from dedos_deploy.vocabulary_file import save_vocabulary
from dedos_deploy.words_file import save_words_file

TEXT_WIDTH = 2


def tokenizer_json() -> bytes:
    """Return a tokenizer of letters, with two merges."""
    letters = [*string.ascii_lowercase[:6], *(f"{letter}</w>" for letter in "abc")]
    tokens = [*letters, "ab", "abc</w>", START, END]
    split = {
        "type": "Split",
        "pattern": {"Regex": _SPLIT},
        "behavior": "Removed",
        "invert": True,
    }
    plain = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    model = {
        "type": "BPE",
        "end_of_word_suffix": "</w>",
        "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": ["a b", "ab c</w>"],
    }
    steps = {"type": "Sequence", "pretokenizers": [split, plain]}
    return json.dumps({"added_tokens": [], "pre_tokenizer": steps, "model": model}).encode()


def spec(**changed: Any) -> dict[str, Any]:
    """Return the tensors of a small bundle's graph, with some fields changed or added."""
    fields = {
        "height": 8,
        "width": 8,
        "text_width": TEXT_WIDTH,
        "batch": 1,
        "score_dtype": "float32",
    }
    return fields | changed


def manifest(files: dict[str, bytes], **changed: Any) -> dict[str, Any]:
    """Return the manifest of `files`, with some fields changed."""
    config = {
        "preset": "nano",
        "clip": {"activation": "gelu", "text_width": TEXT_WIDTH, "text": {"context_length": 16}},
    }
    fields: dict[str, Any] = {
        "preset": "nano",
        "config": config,
        "spec": spec(),
        "target": "cpu",
        "precision": {"image": "fp32"},
        "activation": "gelu",
        "template_name": "single",
        "templates": ["a {}"],
        "context_length": 16,
        "thresholds": {},
        "default_threshold": 0.3,
        "checkpoint_sha256": None,
        "tools": {},
        "sources": [],
        "licence": "none",
        "created": "2026-01-01T00:00:00+00:00",
        "base_vocabulary": "base",
        "calibration_hash": None,
        "vocabularies": ["base"],
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        "format_version": 1,
    }
    return fields | changed


def files(folder: Path) -> dict[str, bytes]:
    """Return what a small bundle holds besides its manifest; its graphs are none."""
    words = save_vocabulary(folder / "words", ["ab", "c"], np.eye(2, dtype=np.float32))
    return {
        "model.onnx": b"m",
        "text_encoder.onnx": b"t",
        "tokenizer.json": tokenizer_json(),
        "vocabularies/base.safetensors": words.read_bytes(),
    }


def trust(features: int) -> bytes:
    """Return statistics of one kind of frames, by so many features."""
    pooled = np.random.default_rng(0).normal(size=(20, features)).astype(np.float32)
    return trust_to_bytes(fit_trust([Kind("frames", "0" * 64, pooled)], [features]))


def words_file(folder: Path) -> bytes:
    """Return a words file with a threshold, a synonym and a letter that is not ASCII."""
    place = save_words_file(
        folder / "tuned",
        entries=["ab@0.25", "c|\u00e4"],
        words=["ab", "c", "\u00e4"],
        embeddings=np.eye(2, dtype=np.float32)[[0, 1, 0]],
        model_sha256="a" * 64,
        tuning={"frames": 20},
    )
    return place.read_bytes()


def as_json(listing: dict[str, Any]) -> str:
    return json.dumps(listing)


def archive(files: dict[str, bytes], listing: dict[str, Any], *, deflated: bool = False) -> bytes:
    """Return the `.dedos` file of some files and their manifest."""
    stream = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", kind) as whole:
        for name, content in ({"manifest.json": as_json(listing).encode()} | files).items():
            whole.writestr(zipfile.ZipInfo(name), content, compress_type=kind)
    return stream.getvalue()


def write_seeds(folder: Path) -> None:
    """Write a few small bundles and a words file, from which a fuzzer begins."""
    content = files(folder)
    (folder / "words").unlink()
    (folder / "seed-2").write_bytes(words_file(folder))
    (folder / "tuned").unlink()
    for deflated in (False, True):
        seed = archive(content, manifest(content), deflated=deflated)
        (folder / f"seed-{int(deflated)}").write_bytes(seed)
    content |= {TRUST: trust(2)}
    seed = archive(content, manifest(content, spec=spec(pooled_width=2)), deflated=True)
    (folder / "seed-3").write_bytes(seed)
