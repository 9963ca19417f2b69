"""Requests made from a server's own OpenAPI description, as bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any
from urllib.parse import quote

from fuzzing.mutators import INTEGERS, json_bytes, mutate_bytes, mutate_json

Json = Any

_TEXTS = (
    "red",
    "red,green",
    "blue|table@0.4",
    "",
    ",",
    "a,a",
    "car@7",
    "a@nan",
    "a@1e-400",
    "/etc/hostname",
    "words.txt",
    "/dev/zero",
    "~",
    "file:///etc/hostname",
    "\0",
    "\n",
    "\r\nX: y",
    "\ud800",
    "\u202e",
    "../..",
    "..%2f..",
    "%",
    "{}",
    "a" * 300,
    "\U0001f600",
    "-1",
    "1e999",
    "nan",
    "9" * 40,
)
_COLOURS = ("#ff2626", "#000000", "#FFFFFF", "#12", "red", "#ff2626\n")
_NUMBERS = (*map(str, INTEGERS), "0.5", "nan", "inf", "-0", "1e-300", "0x1", "\uff11", "")
_TYPES = (
    "application/json",
    "image/png",
    "image/jpeg",
    "text/plain",
    "multipart/form-data",
    "",
    "\xff",
)
_HEADERS = (
    ("Host", ("localhost", "evil.example", "[::1", "", "localhost:99999999", "a" * 9000, "\xa0")),
    ("Origin", ("null", "http://evil.example", "http://[::1", "http://localhost", "file://")),
    ("Cookie", ("dedos_token=x", "=", "a" * 9000, 'dedos_token="\\', ";;;")),
    ("Authorization", ("Bearer", "Bearer x", "Basic eA==", "Bearer \xe9")),
    ("Content-Length", ("0", "-1", "+1", "1e3", "9" * 40, "\xb2", "17825793")),
    ("Transfer-Encoding", ("chunked", "xchunked", "chunked, chunked")),
    ("Connection", ("Upgrade", "close", "keep-alive, x")),
    ("Upgrade", ("websocket", "h2c")),
    ("Expect", ("100-continue", "x")),
    ("Range", ("bytes=0-", "bytes=9-1")),
    ("Sec-Fetch-Site", ("cross-site", "same-origin", "none")),
    ("X", ("a" * 70_000,)),
    ("X-HTTP-Method-Override", ("DELETE",)),
    ("Accept-Encoding", ("gzip", "*;q=9")),
)
_METHODS = (
    "GET",
    "PUT",
    "POST",
    "DELETE",
    "PATCH",
    "HEAD",
    "OPTIONS",
    "TRACE",
    "put",
    "CONNECT",
    "\xff",
)


_OF_SOMETHING = ("/frozen/", "/examples", "/name", "/collected", "}/words")
"""In paths of operations on what must be there first: a frozen frame, a learned word, a folder, the
hash of a checkpoint."""


class Described:
    """Requests of a description, whole and damaged; camera: a name that exists."""

    def __init__(self, description: Json, camera: str, pictures: list[bytes]) -> None:
        self._description = description
        self._camera = camera
        self._pictures = pictures
        self._operations = [
            (method.upper(), path, operation)
            for path, methods in sorted(description["paths"].items())
            for method, operation in sorted(methods.items())
        ]

    def whole(self) -> list[bytes]:
        """Return a request of every operation as the description has it, but for those on what is not
        there yet, which are among the damaged ones."""
        random = Random(0)
        return [
            self._request(*operation, random, damage=0.0)
            for operation in self._operations
            if not any(part in operation[1] for part in _OF_SOMETHING)
        ]

    def make(self, random: Random) -> bytes:
        """Return one request: its values out of bounds, its headers odd, or its bytes damaged."""
        operation = random.choice(self._operations)
        kind = random.choice(("values", "values", "values", "bytes"))
        if kind == "values":
            return self._request(*operation, random, damage=0.5)
        return mutate_bytes(self._request(*operation, random, damage=0.0), random)

    def _request(
        self, method: str, path: str, operation: Json, random: Random, *, damage: float
    ) -> bytes:
        query = []
        for parameter in operation.get("parameters", []):
            value = self._parameter(parameter, random, damage)
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", _quoted(value))
            elif parameter["required"] or random.random() < 0.7:
                query.append(f"{parameter['name']}={_quoted(value)}")
        body, kind = self._body(operation, random, damage)
        headers = {"Host": "localhost", "Connection": "close"}
        if body is not None:
            headers |= {"Content-Type": kind, "Content-Length": str(len(body))}
        if random.random() < damage:
            name, values = random.choice(_HEADERS)
            headers[name] = random.choice(values)
        if random.random() < damage / 8:
            method = random.choice(_METHODS)
        target = path + ("?" + "&".join(query) if query else "")
        lines = [
            f"{method} {target} HTTP/1.1",
            *(f"{key}: {value}" for key, value in headers.items()),
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + (body or b"")

    def _parameter(self, parameter: Json, random: Random, damage: float) -> str:
        if parameter["in"] == "path" and parameter["schema"].get("type") == "string":
            return random.choice(_TEXTS) if random.random() < damage / 4 else self._camera
        return self._text_of(parameter["schema"], random, damage)

    def _text_of(self, schema: Json, random: Random, damage: float) -> str:
        kind = schema.get("type")
        if kind in ("integer", "number"):
            least = str(schema.get("minimum", 0))
            return random.choice(_NUMBERS) if random.random() < damage else least
        return random.choice(_TEXTS) if random.random() < damage else "red,blue"

    def _body(self, operation: Json, random: Random, damage: float) -> tuple[bytes | None, str]:
        content = operation.get("requestBody", {}).get("content", {})
        if not content:
            return None, ""
        kind, described = next(iter(content.items()))
        sent_as = random.choice(_TYPES) if random.random() < damage / 4 else kind
        if kind != "application/json":
            picture = random.choice(self._pictures)
            damaged = mutate_bytes(picture, random) if random.random() < damage else picture
            return damaged, sent_as.replace("*", "png")
        value = self._value(self._resolved(described["schema"]), random, damage)
        body = json_bytes(mutate_json(value, random) if random.random() < damage else value)
        if random.random() < damage / 4:
            deep: Callable[[], bytes] = lambda: random.choice((b"[", b'{"a":')) * 50_000  # noqa: E731
            body = random.choice((mutate_bytes(body, random), deep(), b"\xff\xfe" + body))
        return body, sent_as

    def _value(self, schema: Json, random: Random, damage: float) -> Json:
        if schema.get("type") == "object":
            return {
                name: self._value(self._resolved(inner), random, damage)
                for name, inner in schema["properties"].items()
            }
        if schema.get("type") == "array":
            item = self._resolved(schema.get("items", {}))
            return [self._value(item, random, damage) for _ in range(random.randrange(1, 4))]
        if "anyOf" in schema:  # such as a number or null
            return self._value(random.choice(schema["anyOf"]), random, damage)
        if schema.get("type") == "boolean":
            return random.choice((True, False)) if random.random() >= damage else "yes"
        if schema.get("type") == "null":
            return None
        if "#" in str(schema.get("pattern", "")):
            return random.choice(_COLOURS) if random.random() < damage else _COLOURS[0]
        return self._text_of(schema, random, damage)

    def _resolved(self, schema: Json) -> Json:
        name = schema.get("$ref", "").rpartition("/")[2]
        return self._description["components"]["schemas"][name] if name else schema


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"))


def status_of(answer: bytes) -> int | None:
    """Return the status of an answer, None if there is none.

    >>> status_of(b"HTTP/1.1 404 Not Found\\r\\n")
    404
    """
    parts = answer[:20].split(b" ")
    is_answer = parts[0].startswith(b"HTTP/1.") and len(parts) > 1 and parts[1].isdigit()
    return int(parts[1]) if is_answer else None


def read_description(content: bytes) -> Json:
    """Return an OpenAPI description."""
    return json.loads(content)
