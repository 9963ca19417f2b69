"""Examples in docstrings hold, and importing the runtime stays light."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import dedos_deploy.runtime

MODULES = [module.name for module in pkgutil.iter_modules(dedos_deploy.runtime.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(f"dedos_deploy.runtime.{name}")
    assert doctest.testmod(module).failed == 0


def test_import_brings_numpy_at_most() -> None:
    heavy = ("cv2", "onnxruntime", "tokenizers", "torch", "onnx", "safetensors", "scipy")
    code = (
        "import sys, dedos_deploy.runtime\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
