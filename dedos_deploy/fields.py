"""JSON values checked against annotated dataclasses, so that a wrong one is named by its path."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dedos_deploy.errors import nearest, shown

_MAX_INT = 2**31 - 1
_KINDS: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}


class FieldError(Exception):
    """One field is wrong; the message names it."""


def load_json(text: str) -> object:
    """Return the value of a JSON text.

    Raises FieldError for anything that RFC 8259 does not allow or leaves open: syntax, NaN and
    Infinity, a key given twice, nesting deeper than Python's parser can follow.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise FieldError(
            f"is not valid JSON ({error.msg} at line {error.lineno}, column {error.colno})"
        ) from error
    except ValueError as error:  # a number with more digits than Python converts
        raise FieldError("is not valid JSON (a number is too long)") from error
    except RecursionError as error:
        raise FieldError("is not valid JSON (nested too deeply)") from error


def checked(hint: Any, value: object, path: str) -> Any:
    """Return `value`, a JSON value, as the type that `hint` describes.

    hint: dataclass (every field must be given, also one with a default), one of several dataclasses
    that differ in the Literal of their field `kind`, Literal, optional, list, dict, tuple or scalar
    type; path: name of the field, "" for the whole.

    Raises FieldError naming the path, what was found and what is allowed.
    """
    origin = get_origin(hint)
    if origin is Literal:
        return _literal(get_args(hint), value, path)
    if origin in (Union, types.UnionType):
        return _union(get_args(hint), value, path)
    if origin is list:
        (item,) = get_args(hint)
        values = _of_kind(list, value, path)
        return [checked(item, v, f"{path}[{i}]") for i, v in enumerate(values)]
    if origin is tuple:
        return _tuple(get_args(hint), value, path)
    if origin is dict:
        _, item = get_args(hint)
        pairs = _of_kind(dict, value, path).items()
        names = [checked(str, k, f"{path}.{k}") for k, _ in pairs]
        items = [checked(item, v, f"{path}.{k}") for k, v in pairs]
        return dict(zip(names, items, strict=True))
    if is_dataclass(hint):
        return _record(hint, value, path)
    return value if hint is Any else _of_kind(hint, value, path)


def _of_kind(kind: type, value: object, path: str) -> Any:
    if kind is float and type(value) is int and abs(value) <= _MAX_INT:
        return float(value)
    # `type(...) is`: True is an int to isinstance, and a size of `true` pixels must not pass.
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise _mistyped(path, _KINDS[kind], value)
    if isinstance(value, int) and abs(value) > _MAX_INT:
        raise _mistyped(path, f"a whole number up to {_MAX_INT}", value)
    if isinstance(value, str) and not value.isprintable():
        raise _mistyped(path, "printable text on one line", value)
    return value


def _mistyped(path: str, expected: str, value: object) -> FieldError:
    found = shown(value) if type(value) not in (list, dict) else _KINDS[type(value)]
    return FieldError(f"field {shown(path)} must be {expected}, not {found}")


def _literal(allowed: tuple[object, ...], value: object, path: str) -> object:
    # Types are compared too, because 1 == True.
    if any(value == known and type(value) is type(known) for known in allowed):
        return value
    raise _mistyped(path, f"one of {', '.join(map(repr, allowed))}", value)


def _union(hints: tuple[Any, ...], value: object, path: str) -> object:
    if value is None and type(None) in hints:
        return None
    kinds = [hint for hint in hints if hint is not type(None)]
    return checked(kinds[0] if len(kinds) == 1 else _tagged(kinds, value, path), value, path)


def _tagged(kinds: list[Any], value: object, path: str) -> Any:
    """Return which of several dataclasses an object is meant to be, by its key `kind`."""
    by_tag = {get_args(get_type_hints(kind)["kind"])[0]: kind for kind in kinds}
    tag = _of_kind(dict, value, path).get("kind")
    return by_tag[_literal(tuple(by_tag), tag, f"{path}.kind")]


def _tuple(items: tuple[Any, ...], value: object, path: str) -> tuple[Any, ...]:
    values = list(value) if isinstance(value, tuple) else _of_kind(list, value, path)
    if items[-1] is Ellipsis:
        items = (items[0],) * len(values)
    if len(values) != len(items):
        raise FieldError(f"field {shown(path)} must have {len(items)} values, not {len(values)}")
    numbered = enumerate(zip(items, values, strict=True))
    return tuple(checked(hint, v, f"{path}[{i}]") for i, (hint, v) in numbered)


def _record(kind: Any, value: object, path: str) -> Any:
    values = _of_kind(dict, value, path)
    known = [field.name for field in fields(kind)]
    prefix = f"{path}." if path else ""
    for key in values:
        if key not in known:
            raise FieldError(f"unknown key {shown(prefix + key)}{nearest(key, known)}")
    for name in known:
        if name not in values:
            raise FieldError(f"key {shown(prefix + name)} is missing")
    hints = get_type_hints(kind)
    return kind(
        **{name: checked(hints[name], item, prefix + name) for name, item in values.items()}
    )


def _unique(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    values: dict[str, object] = {}
    for name, value in pairs:
        if name in values:
            raise FieldError(f"has the key {shown(name)} twice")
        values[name] = value
    return values


def _no_constant(name: str) -> object:
    raise FieldError(f"is not valid JSON ({name} is not a JSON number)")
