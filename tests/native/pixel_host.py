"""tests/native/pixel_host.cpp, compiled for the tests that need it."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
HEADERS = Path(__file__).parents[2] / "runtime" / "native"
LEADER_BYTES = 16
RIVALS_BYTES = 16


def compile_host(folder: Path) -> PixelHost:
    """Compile the functions of the CUDA kernels for this CPU."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None, "the native module was built, so there is a C++ compiler"
    library = folder / "pixel_host.so"
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared"]
    subprocess.run(
        [
            compiler,
            *flags,
            "-fPIC",
            f"-I{HEADERS}",
            "-o",
            str(library),
            str(HERE / "pixel_host.cpp"),
        ],
        check=True,
    )
    return PixelHost(ctypes.CDLL(str(library)))


class PixelHost:
    """What the kernels compute; rivals: of the last label map, uint8 [h, w, 16], a count and slots."""

    rivals: NDArray[np.uint8]

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name in ("f32_u8", "f32_u16", "f16_u8", "f16_u16"):
            getattr(library, f"label_{name}").restype = ctypes.c_longlong

    def label(
        self,
        scores: NDArray[Any],
        thresholds: NDArray[np.float32],
        slot_ids: NDArray[np.uint16],
        size_hw: tuple[int, int],
        *,
        cells: int,
        wide: bool = False,
    ) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.uint32], int]:
        """Return ids, confidence, counts and the index of the first broken score, or -1."""
        ids = np.full(size_hw, 77, np.uint16 if wide else np.uint8)
        confidence = np.zeros(size_hw, np.uint8)
        counts = np.zeros(cells, np.uint32)
        leaders = np.zeros(scores.shape[1] * scores.shape[2] * LEADER_BYTES, np.uint8)
        self.rivals = np.full((*scores.shape[1:], RIVALS_BYTES), 77, np.uint8)
        kind = "f16" if scores.dtype == np.float16 else "f32"
        function = getattr(self._library, f"label_{kind}_{'u16' if wide else 'u8'}")
        broken = function(
            _at(scores),
            _at(np.array(scores.shape, np.int32)),
            _at(thresholds),
            _at(slot_ids),
            _at(ids),
            _at(confidence),
            _at(np.array(size_hw, np.int32)),
            _at(counts),
            ctypes.c_int(cells),
            _at(leaders),
            _at(self.rivals),
        )
        return ids, confidence, counts, broken

    def resize(self, frame: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
        out = np.zeros((*size_hw, 3), np.uint8)
        sizes = [ctypes.c_int(value) for value in (*frame.shape[:2], *size_hw)]
        self._library.resize(_at(frame), *sizes[:2], _at(out), *sizes[2:])
        return out

    def floats(self, halves: NDArray[np.uint16]) -> NDArray[np.float32]:
        out = np.zeros(halves.shape, np.float32)
        self._library.halves_to_floats(_at(halves), _at(out), ctypes.c_int(halves.size))
        return out


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
