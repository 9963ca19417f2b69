"""ONNX graphs that come with a bundle: damaged in bytes, and in what their messages say."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from fuzzing.bundles import FOLDER, Bundles
from fuzzing.mutators import INTEGERS, mutate_bytes
from fuzzing.subject import Limits

GRAPHS = ("model.onnx", "model.onnx", "text_encoder.onnx")
"""The image graph is the one that takes what a camera sees."""

_WORDS = (
    "",
    "image",
    "text",
    "valid",
    "scores",
    "tokens",
    "embedding",
    "K",
    "Loop",
    "If",
    "Scan",
    "Identity",
    "Einsum",
    "Resize",
    "ConstantOfShape",
    "Expand",
    "Tile",
    "com.microsoft",
    "../../etc/passwd",
    "/dev/zero",
    "location",
    "\0",
)


class Graphs(Bundles):
    """`model.onnx` and `text_encoder.onnx` of a bundle whose hashes are right."""

    name = "onnx"
    preload = Bundles.preload
    limits = Limits(memory_mb=1024)

    def make(self, random: Random, folder: Path) -> Path:
        name = random.choice(GRAPHS)
        damage = random.choice((mutate_bytes, mutate_graph))
        return self._with(name, damage(self.files[name], random), folder)


def mutate_graph(content: bytes, random: Random) -> bytes:
    """Return a graph with 1 to 4 fields changed, removed or doubled; it stays well formed."""
    import onnx

    graph = onnx.ModelProto()
    graph.ParseFromString(content)
    for _ in range(random.choice((1, 1, 2, 4))):
        message, field = random.choice(_fields(graph))
        _change(message, field, random)
    return bytes(graph.SerializeToString())


def _fields(graph: Any) -> list[tuple[Any, Any]]:
    """Return all pairs of a message and a field that is set in it."""
    found, waiting = [], [graph]
    while waiting:
        message = waiting.pop()
        for field, value in message.ListFields():
            found.append((message, field))
            if field.message_type is not None:
                waiting += list(value) if _is_repeated(message, field) else [value]
    return found


def _is_repeated(message: Any, field: Any) -> bool:
    return not isinstance(getattr(message, field.name), (str, bytes, int, float)) and hasattr(
        getattr(message, field.name), "append"
    )


def _change(message: Any, field: Any, random: Random) -> None:
    value = getattr(message, field.name)
    if random.random() < 0.15:
        message.ClearField(field.name)
    elif not _is_repeated(message, field):
        if field.message_type is None:
            setattr(message, field.name, _other(value, field, random))
    elif len(value):
        at = random.randrange(len(value))
        if random.random() < 0.3:
            del value[at]
        elif field.message_type is not None:
            value.add().CopyFrom(value[at])
        else:
            value[at] = _other(value[at], field, random)


def _other(value: Any, field: Any, random: Random) -> Any:
    if field.enum_type is not None:
        return random.choice(sorted(field.enum_type.values_by_number))
    if isinstance(value, int):
        small = [one for one in INTEGERS if -(2**31) <= one < 2**31]
        return random.choice((value + 1, abs(value - 1), *small))
    if isinstance(value, float):
        return random.choice((0.0, -1.0, 1e38, float("inf"), float("nan")))
    if isinstance(value, bytes):
        return mutate_bytes(value, random)
    return random.choice(_WORDS)


__all__ = ["FOLDER", "Graphs", "mutate_graph"]
