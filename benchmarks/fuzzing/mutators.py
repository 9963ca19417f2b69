"""Damage to bytes and to JSON, drawn from a seeded generator alone."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from random import Random
from typing import Any

Json = Any

INTEGERS = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    32767,
    32768,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**31),
    -(2**63),
)
"""Where signs, widths and limits change."""

PIECES = (
    *(
        value.to_bytes(width, order, signed=value < 0)
        for value in INTEGERS
        for width in (1, 2, 4, 8)
        for order in ("little", "big")
        if -(2 ** (8 * width - 1)) <= value < 2 ** (8 * width)
    ),
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"9" * 20,
    b"-1",
    b"1e999",
    b"NaN",
    b"..",
    b"\0",
    b"\r\n\r\n",
    b"%00",
    b"\xed\xa0\x80",
    b'"',
    b"{",
    b"[",
    b"/etc/passwd\0",
)
"""What is put in place of, or between, other bytes."""

VALUES: tuple[Json, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    2**31 - 1,
    2**31,
    2**53,
    2**63,
    -(2**63),
    10**30,
    0.5,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    "a",
    "\u202e",
    "\0",
    "\ud800",
    "../x",
    "/etc/passwd",
    "x" * 70_000,
    [],
    {},
    [[]],
    {"a": 1},
    ["x"] * 1000,
    [2**31] * 3,
    "[",
    "(?:a+)+$",
    "(a*)*b",
)
"""What is put in place of any JSON value."""

MOST_CHANGES = (1, 1, 1, 2, 3, 8, 32)
LONGEST_PLACES = 64
"""Items of one list or object that are considered; a tokenizer's vocabulary has thousands."""


def mutate_bytes(content: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return `content` with 1 to 32 changes; others: what it may be spliced with."""
    changed = bytearray(content)
    for _ in range(random.choice(MOST_CHANGES)):
        changed = changed or bytearray(1)
        changed = _one_change(changed, random, others)
    return bytes(changed)


def _one_change(changed: bytearray, random: Random, others: Sequence[bytes]) -> bytearray:
    at = random.randrange(len(changed))
    kind = random.choice(("bit", "byte", "over", "between", "remove", "copy", "repeat", "rare"))
    if kind == "bit":
        changed[at] ^= 1 << random.randrange(8)
    elif kind == "byte":
        changed[at] = random.randrange(256)
    elif kind == "over":
        piece = random.choice(PIECES)
        changed[at : at + len(piece)] = piece
    elif kind == "between":
        changed[at:at] = random.choice(PIECES)
    elif kind == "remove":
        del changed[at : at + random.choice((1, 2, 4, 16, 64))]
    elif kind == "copy":
        length, start = random.choice((1, 4, 16, 64)), random.randrange(len(changed))
        changed[at : at + length] = changed[start : start + length]
    elif kind == "repeat":
        piece = bytes(changed[at : at + random.choice((4, 16, 64))])
        changed[at:at] = piece * random.choice((1, 2, 50))
    elif random.random() < 0.5:
        return changed[:at]
    elif others:
        other = random.choice(others)
        return changed[:at] + other[random.randrange(len(other)) :]
    return changed


def mutate_json(value: Json, random: Random, values: Sequence[Json] = ()) -> Json:
    """Return a copy of a JSON value with 1 to 4 places replaced, removed, renamed or doubled.

    values: what to put in, besides VALUES.
    """
    changed = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 2, 4))):
        places = _places(changed)
        if places:
            _change_place(*random.choice(places), random, (*VALUES, *values))
    return changed


def json_bytes(value: Json) -> bytes:
    """Return JSON as UTF-8, with NaN and lone surrogates as they are."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _places(value: Json) -> list[tuple[Json, Any]]:
    """Return all pairs of a container and a key of it."""
    found: list[tuple[Json, Any]] = []
    waiting = [value]
    while waiting:
        container = waiting.pop()
        if not isinstance(container, (dict, list)):
            continue
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        for key in keys[:LONGEST_PLACES]:
            found.append((container, key))
            waiting.append(container[key])
    return found


def _change_place(container: Json, key: Any, random: Random, values: Sequence[Json]) -> None:
    kind = random.choice(("replace", "replace", "replace", "remove", "rename", "double", "number"))
    if kind == "remove":
        del container[key]
    elif kind == "rename" and isinstance(container, dict):
        container[random.choice(("", "x", f"{key}x", "\0", "__class__"))] = container.pop(key)
    elif kind == "double" and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif kind == "number" and type(container[key]) in (int, float):
        container[key] = random.choice(
            (
                container[key] + 1,
                container[key] - 1,
                -container[key],
                container[key] * 1000,
                *INTEGERS,
            )
        )
    else:
        container[key] = copy.deepcopy(random.choice(values))
