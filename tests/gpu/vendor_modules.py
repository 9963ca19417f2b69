"""The vendors' Python modules, of versions that are not installed and without the libraries behind them.

Wheels come from the package index once, are held against their hashes, and stay in uv's cache. Of
TensorRT's they hold the bindings only: libraries in place of the missing ones are compiled here.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from module_api import Api

HERE = Path(__file__).parent
WHEELS = {
    block.split(" ")[0]: block
    for block in (HERE / "vendor_wheels.txt").read_text().split("\n\n")
    if not block.startswith("#")
}
"""Requirements with hashes, by the first one, such as `cuda-bindings==12.9.0`."""

CUDA = ("cuda.bindings.runtime", "cuda.bindings.driver")

IMPORTED = re.compile(r"create\w+_INTERNAL|get\w*PluginRegistry|getNvOnnxParserVersion|initLib\w+")
"""Functions that the bindings import from the libraries of TensorRT."""


@dataclass(frozen=True)
class Vendor:
    """A library's Python modules of one version."""

    modules: tuple[str, ...]
    """To import."""

    folder: Path | None
    """Where the wheel lies, None for the installed one."""

    libraries: Path | None = None
    """Where the stand-ins for its libraries lie, None with the real ones."""

    def api(self) -> Api:
        """Return what the modules offer."""
        api: Api = self._run("module_api.py", self.modules)
        return api

    def refusals(self) -> dict[str, str]:
        """Return what calls return or raise when the library refuses all of them."""
        assert self.libraries is not None, "a real library does not refuse all"
        found: dict[str, str] = self._run("vendor_refusals.py", self.modules)
        return found

    def _run(self, program: str, arguments: Sequence[str]) -> Any:
        environment = dict(os.environ)
        # Of what is installed the wheel sees nothing, the real libraries least of all.
        isolated = [] if self.folder is None else ["-S"]
        if self.folder is not None:
            environment["PYTHONPATH"] = str(self.folder)
        if self.libraries is not None:
            environment["LD_LIBRARY_PATH"] = str(self.libraries)
        done = subprocess.run(
            [sys.executable, *isolated, str(HERE / program), *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def tensorrt(requirement: str, folder: Path) -> Vendor:
    """Return TensorRT's bindings from their wheel, with stand-ins for its libraries."""
    install(requirement, folder / "wheel")
    (bindings,) = (folder / "wheel").glob("tensorrt*_bindings/tensorrt*.so")
    make_libraries(bindings, folder / "lib")
    return Vendor((bindings.parent.name,), folder / "wheel", folder / "lib")


def cuda(requirement: str, folder: Path) -> Vendor:
    """Return cuda-python's bindings from their wheel, which need no library to be read."""
    install(requirement, folder)
    return Vendor(CUDA, folder)


def install(requirement: str, folder: Path) -> None:
    """Put the wheels of a block of WHEELS into a folder; skip the test where they cannot be had."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip(f"hashes of {requirement} are noted for Linux on x86_64 only")
    find_uv = pytest.importorskip("uv", reason="needs uv, of the extra dev").find_uv_bin
    listed = folder.parent / f"{folder.name}.txt"
    listed.write_text(WHEELS[requirement])
    command = f"{find_uv()} pip install --quiet --no-deps --require-hashes --only-binary :all:"
    where = ["--python", sys.executable, "--target", str(folder), "-r", str(listed)]
    # What is in uv's cache needs no network.
    for offline in (["--offline"], []):
        done = subprocess.run(
            [*command.split(), *offline, *where], capture_output=True, text=True, timeout=300
        )
        if done.returncode == 0:
            return
    pytest.skip(f"{requirement} cannot be had: {done.stderr.strip()}")


def make_libraries(bindings: Path, folder: Path) -> None:
    """Compile what stands in for the libraries that TensorRT's bindings are linked to."""
    folder.mkdir()
    imported = _listed("nm", "-D", "--undefined-only", str(bindings))
    entries = [name for name in imported.split() if IMPORTED.fullmatch(name)]
    source = folder / "stub.cpp"
    text = (HERE / "vendor_stub.cpp").read_text()
    source.write_text(text + "".join(f"ENTRY({name})\n" for name in entries))
    wanted = _listed("readelf", "--dynamic", "--wide", str(bindings))
    first, *others = re.findall(r"NEEDED.*\[(lib(?:nvinfer|nvonnx|tensorrt)[^\]]*)\]", wanted)
    _compile(source, folder / first)
    for name in others:
        # All that is imported is found in the first, whichever library should have it.
        (folder / name).symlink_to(first)


def _compile(source: Path, library: Path) -> None:
    options = f"-std=c++17 -shared -fPIC -Wl,-soname,{library.name}".split()
    subprocess.run(["g++", *options, str(source), "-o", str(library)], check=True, timeout=60)


def _listed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
