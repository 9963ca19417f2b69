"""The examples of docs/gpu_frames.md that need a GPU: short, Python, and calls that exist."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.results import DeviceSegmentation

PAGE = Path(__file__).parents[2] / "docs" / "gpu_frames.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
OURS: dict[str, Any] = {"segment": Segmenter.segment, "load": Segmenter.load.__func__}


def test_every_library_has_its_example() -> None:
    for library in ("torch", "cupy", "cvcuda", "PyNitrosSubscriber"):
        assert library in PAGE.read_text(encoding="utf-8")
    assert len(BLOCKS) == 5


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split()[1])
def test_an_example_is_short_and_calls_what_exists(block: str) -> None:
    lines = [line for line in block.splitlines() if line]
    assert len(lines) <= 10
    called = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name in OURS:
                called.add(name)
                keywords = {word.arg: None for word in node.keywords if word.arg is not None}
                inspect.signature(OURS[name]).bind(*[None] * (len(node.args) + 1), **keywords)
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "result"
        ):
            fields = {*DeviceSegmentation.__dataclass_fields__, *dir(DeviceSegmentation)}
            assert node.attr in fields
    assert "segment" in called
