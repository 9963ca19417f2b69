"""What a Python module offers: its public names, those of its classes, and parameters.

As a program, `python module_api.py MODULE…` prints that of modules of which only one version fits into a
process. Parameters that have a default end in `=`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from typing import Any

Api = dict[str, "list[list[str]] | None"]
"""Dotted names; of what can be called, the parameters of every signature, without self."""


def api_of(module: Any) -> Api:
    """Return what a module, or an object in its place, offers."""
    found: Api = {}
    for name in dir(module):
        value = None if name.startswith("_") else getattr(module, name)
        if isinstance(value, type):
            found |= class_api(name, value)
        elif value is not None:
            found[name] = signatures(value, name)
    return found


def class_api(name: str, kind: type) -> Api:
    members = [n for n in dir(kind) if not n.startswith("_") or n == "__init__"]
    return {name: None, **{f"{name}.{n}": signatures(getattr(kind, n), n) for n in members}}


def signatures(value: Any, name: str) -> list[list[str]] | None:
    """Return the parameters of every signature, None of what cannot be called."""
    if not callable(value) or isinstance(value, type):
        return None
    listed = _listed(value.__doc__ or "", name)
    if listed:
        return listed
    # Of what is compiled only Cython's functions tell: its methods do not.
    if not inspect.isfunction(value) and type(value).__name__ != "cython_function_or_method":
        return None
    parameters = inspect.signature(value).parameters.values()
    names = [p.name + ("" if p.default is p.empty else "=") for p in parameters]
    return [names[1:] if names[:1] == ["self"] else names]


def _listed(doc: str, name: str) -> list[list[str]]:
    """Return what the docstring of a pybind11 function lists: `name(self: T, size: int = 0) -> U`."""
    found = []
    for arguments in re.findall(rf"^(?:\d+\. )?{name}\((.*)\) ->", doc, re.MULTILINE):
        parts = _split(arguments)
        names = [part.split(":")[0].strip() + ("=" if " = " in part else "") for part in parts]
        found.append(names[1:])
    return found


def _split(arguments: str) -> list[str]:
    """Return what stands between the commas that are in no bracket."""
    depth, parts, start = 0, [], 0
    for index, letter in enumerate(arguments):
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            parts.append(arguments[start:index])
            start = index + 1
    return [*parts, arguments[start:]]


def misfits(wanted: Api, offered: Api) -> list[str]:
    """What of `wanted` is not offered, or not with these parameters first and defaults for the rest."""
    found = [f"{name} is missing" for name in wanted if name not in offered]
    for name in wanted.keys() & offered.keys():
        for parameters in wanted[name] or []:
            given = offered[name] or []
            if not any(_fits(parameters, signature) for signature in given):
                found.append(f"{name}{parameters} is none of {given}")
    return sorted(found)


def _fits(parameters: list[str], signature: list[str]) -> bool:
    named = [name.rstrip("=") for name in signature[: len(parameters)]]
    return named == parameters and _have_defaults(signature, len(parameters))


def _have_defaults(signature: list[str], given: int) -> bool:
    return all(name.endswith("=") for name in signature[given:])


def miscounts(calls: dict[str, set[int]], offered: Api) -> list[str]:
    """What is called or named that is not offered, or takes another number of arguments."""
    found = [f"{name} is missing" for name in calls if name not in offered]
    for name in calls.keys() & offered.keys():
        for count in calls[name]:
            given = offered[name] or []
            if not any(count <= len(s) and _have_defaults(s, count) for s in given):
                found.append(f"{name} with {count} arguments is none of {given}")
    return sorted(found)


def main(modules: list[str]) -> None:
    offered: Api = {}
    for name in modules:
        offered |= api_of(importlib.import_module(name))
    json.dump(offered, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
