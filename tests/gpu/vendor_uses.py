"""What the code of this package names of the vendors' modules, read from its syntax trees."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = (*sorted((ROOT / "runtime" / "gpu").glob("*.py")), ROOT / "export" / "rtx.py")

MODULES = ("trt", "_trt")
"""What the code calls `tensorrt` and `tensorrt_rtx`."""

CUDA_NAME = re.compile(r"cu(?:da)?[A-Z]\w*|CU\w+")
SPOKEN = {
    "cudaError_t": re.compile(r"\bcudaError[A-Z]\w+"),
    "CUresult": re.compile(r"\bCUDA_ERROR_\w+"),
}
"""Members of enumerations that are compared by name, as strings."""


@dataclass
class Uses:
    """Names of a library, dotted as in `module_api`."""

    calls: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Every name, with the numbers of arguments that it is called with, none for what is not."""

    optional: set[str] = field(default_factory=set)
    """Names that are asked for, because some versions lack them."""

    overridden: dict[str, int] = field(default_factory=dict)
    """Methods of classes that are derived from the library's, and how many parameters they have."""

    spoken: set[str] = field(default_factory=set)
    """Names in strings."""


def tensorrt_uses() -> Uses:
    """Return what is named of `tensorrt` and `tensorrt_rtx`."""
    uses = Uses()
    for node in _nodes():
        if isinstance(node, ast.Attribute):
            _note(uses, _of_module(node))
        elif isinstance(node, ast.Call):
            _note_made(uses, node)
            _note_asked(uses, node)
        elif isinstance(node, ast.ClassDef):
            for base in filter(None, map(_of_module, node.bases)):
                uses.overridden |= {f"{base}.{n}": count for n, count in _methods(node)}
    return uses


def cuda_uses() -> Uses:
    """Return what is named of `cuda.bindings.runtime` and `cuda.bindings.driver`."""
    uses = Uses()
    for node in _nodes():
        if isinstance(node, ast.Attribute):
            _note(uses, _of_cuda(node))
        elif isinstance(node, ast.Call):
            called = _of_cuda(node.func)
            if called and not any(isinstance(a, ast.Starred) for a in node.args):
                uses.calls[called].add(len(node.args))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            for kind, pattern in SPOKEN.items():
                uses.spoken |= {f"{kind}.{name}" for name in pattern.findall(node.value)}
    return uses


def _nodes() -> Iterable[ast.AST]:
    for path in SOURCES:
        yield from ast.walk(ast.parse(path.read_text()))


def _note(uses: Uses, name: str | None) -> None:
    if name:
        uses.calls[name]


def _note_made(uses: Uses, call: ast.Call) -> None:
    """Note `trt.Something(argument)`, or the same through `Library.must`."""
    made, given = call.func, call.args
    if getattr(made, "attr", getattr(made, "id", "")) in ("must", "ask"):
        _refusal, made, *given = given
    name = _of_module(made)
    # `trt.ILogger.__init__(self)` names self, which signatures leave out.
    if name and not getattr(made, "attr", "").startswith("__"):
        uses.calls[f"{name}.__init__"].add(len(given))


def _note_asked(uses: Uses, call: ast.Call) -> None:
    """Note `getattr(trt.Something, "NAME", default)`."""
    if getattr(call.func, "id", "") == "getattr" and len(call.args) == 3:
        kind = _of_module(call.args[0])
        if kind and isinstance(call.args[1], ast.Constant):
            uses.optional.add(f"{kind}.{call.args[1].value}")


def _of_module(node: ast.AST) -> str | None:
    """Return `A.B` of `trt.A.B` or `library.trt.A.B`; what belongs to Python is left off."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and node.attr not in MODULES:
        parts.insert(0, node.attr)
        node = node.value
    root = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    names = [part for part in parts if not part.startswith("__")]
    return ".".join(names) if root in MODULES and names else None


def _of_cuda(node: ast.AST) -> str | None:
    """Return the name of CUDA's in an attribute, with its enumeration, or a device's property."""
    if not isinstance(node, ast.Attribute):
        return None
    if isinstance(node.value, ast.Name) and node.value.id == "properties":
        return f"cudaDeviceProp.{node.attr}"
    if not CUDA_NAME.fullmatch(node.attr):
        return None
    kind = getattr(node.value, "attr", "")
    return f"{kind}.{node.attr}" if CUDA_NAME.fullmatch(kind) else node.attr


def _methods(node: ast.ClassDef) -> Iterable[tuple[str, int]]:
    """Return the methods of a class and how many parameters they have besides self."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            yield item.name, len(item.args.args) - 1
