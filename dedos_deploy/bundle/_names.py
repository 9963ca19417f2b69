"""Names of files inside a bundle: portable, relative, never leading out of the folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from dedos_deploy.errors import shown

MANIFEST = "manifest.json"
MODEL = "model.onnx"
EXAMPLES = "examples.onnx"
"""The graph of dense embeddings that words by example are made with; not in every bundle."""
TRUST = "trust.safetensors"
"""Statistics of the frames that the model can be trusted on; not in every bundle."""
TEXT_ENCODER = "text_encoder.onnx"
TOKENIZER = "tokenizer.json"
REPORT = "report.json"
ENGINES_FOLDER = "engines"
PARITY_FOLDER = "parity"
REQUIRED = (MODEL, TEXT_ENCODER, TOKENIZER)
"""Files that every bundle lists in its manifest."""

MAX_FILES = 4096
"""Files that a bundle may have: bounds what its manifest can make a reader do."""

MAX_NAME = 200
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_VOCABULARY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_BATCH_GRAPH = re.compile(r"model\.batch([1-9]\d{0,3})\.onnx")
_CURVES = re.compile(r"confidence-[0-9a-f]{12}\.json")
_HASH = re.compile(r"[0-9a-f]{64}")


def is_safe_name(name: str) -> bool:
    """Return whether `name` may be a file of a bundle: letters, digits, `_.+-`, parts split by `/`.

    >>> is_safe_name("engines/rtx/model.bin"), is_safe_name("../model.onnx"), is_safe_name("/etc")
    (True, False, False)
    """
    return len(name) <= MAX_NAME and all(_PART.fullmatch(part) for part in name.split("/"))


def is_sha256(text: str) -> bool:
    """Return whether `text` is a SHA-256 digest in lower-case hexadecimal."""
    return _HASH.fullmatch(text) is not None


def clash(names: Iterable[str]) -> str | None:
    """Return a sentence part on the first two names that cannot stand beside each other, or None.

    Names that differ only in case are one file on Windows and macOS; a name cannot be a file and
    the folder of another.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.get(name.casefold())
        if other is not None:
            return f"{shown(name)} comes twice" + ("" if other == name else f" (as {shown(other)})")
        seen[name.casefold()] = name
    for key, name in seen.items():
        for parent in Path(key).parents:
            if parent.as_posix() in seen:
                return f"{shown(name)} lies in {shown(seen[parent.as_posix()])}, which is a file"
    return None


def batch_file(batch: int) -> str:
    """Return the file of the graph that takes so many frames per run, beside `model.onnx`.

    >>> batch_file(4)
    'model.batch4.onnx'
    """
    return f"model.batch{batch}.onnx"


def batch_of(name: str) -> int | None:
    """Return how many frames per run the graph in a file takes, None for any other file.

    >>> batch_of("model.batch4.onnx"), batch_of("model.onnx")
    (4, None)
    """
    match = _BATCH_GRAPH.fullmatch(name)
    return int(match[1]) if match else None


def curves_file(digest: str) -> str:
    """Return the file of the confidence curves whose content has the SHA-256 `digest`.

    Other curves have another name: a bundle can get them before its manifest says so, and lose the old
    ones after.
    """
    return f"confidence-{digest[:12]}.json"


def is_curves_file(name: str) -> bool:
    """Return whether `name` is a file of confidence curves.

    >>> is_curves_file("confidence-0123456789ab.json"), is_curves_file("report.json")
    (True, False)
    """
    return _CURVES.fullmatch(name) is not None


def vocabulary_file(name: str) -> str:
    """Return the file of the vocabulary called `name`.

    >>> vocabulary_file("base")
    'vocabularies/base.safetensors'
    """
    return f"vocabularies/{name}.safetensors"


def is_vocabulary_name(name: str) -> bool:
    """Return whether `name` can be the name of a vocabulary shipped in a bundle."""
    return len(name) <= MAX_NAME // 2 and _VOCABULARY.fullmatch(name) is not None
