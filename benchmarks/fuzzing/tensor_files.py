"""Damage to safetensors files that knows how they are built."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from fuzzing.mutators import json_bytes, mutate_bytes, mutate_json

_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64")
_METADATA = "__metadata__"


def settled(content: bytes) -> bytes:
    """Return a file with its metadata in order; who writes it has them in one of chance."""
    header, tensors = _parts(content)
    if _METADATA in header:
        header[_METADATA] = dict(sorted(header[_METADATA].items()))
    return _joined(json_bytes(header), tensors)


def mutate_safetensors(content: bytes, random: Random) -> bytes:
    """Return a damaged file: any of its bytes, its header's JSON, or JSON within its metadata."""
    kind = random.choice(("bytes", "header", "nested", "nested", "tensors"))
    header, tensors = _parts(content)
    if kind == "bytes":
        return mutate_bytes(content, random)
    if kind == "tensors":
        return content[: len(content) - len(tensors)] + mutate_bytes(tensors, random)
    if kind == "header" or not header.get(_METADATA):
        header = mutate_json(header, random, _DTYPES)
    else:
        header[_METADATA] = _with_changed_value(header[_METADATA], random)
    return _joined(json_bytes(header), tensors)


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _joined(header: bytes, tensors: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + tensors


def _with_changed_value(metadata: dict[str, str], random: Random) -> dict[str, Any]:
    """Change one value of the metadata; where it is JSON itself, within."""
    key = random.choice(sorted(metadata))
    try:
        changed = mutate_json(json.loads(metadata[key]), random)
        return {**metadata, key: json.dumps(changed)}
    except ValueError:
        return {**metadata, key: random.choice(("", "0", "-1", "9" * 20, "\u0662", "[" * 2000))}
