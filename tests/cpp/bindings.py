"""libdedos built once and called from Python, beside the Python runtime that it must equal."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "runtime" / "cpp"
BACKGROUNDS = ("threshold", "negatives", "none")
FORMATS = ("bgr", "rgb", "nv12")
STATUSES = ("ok", "bad input", "bad bundle", "unsupported version", "engine error", "internal")


def onnx_runtime() -> Path:
    """Return the library inside the installed onnxruntime, which both sides then use."""
    import onnxruntime

    (found,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    return found


UNITY = ("-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=11")
"""In two pieces, which takes a third of the time of one for each file."""


def build(folder: Path) -> Path:
    """Build libdedos with CMake, install it below `folder`, and return the library."""
    place = folder / "build"
    prefix = folder / "prefix"
    configure = ["cmake", "-S", str(SOURCE), "-B", str(place), f"-DCMAKE_INSTALL_PREFIX={prefix}"]
    run(*configure, "-DCMAKE_INSTALL_LIBDIR=lib", "-DDEDOS_WERROR=ON", *UNITY)
    run("cmake", "--build", str(place), "--parallel", "2", "--target", "install")
    return prefix / "lib" / "libdedos.so"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class _Options(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("background", ctypes.c_int),
        ("threshold", ctypes.c_double),
        ("threads", ctypes.c_int),
        ("text_threads", ctypes.c_int),
        ("verify", ctypes.c_int),
        ("onnxruntime", ctypes.c_char_p),
        ("vocabulary_files", ctypes.POINTER(ctypes.c_char_p)),
        ("vocabulary_count", ctypes.c_size_t),
        ("words_file", ctypes.c_char_p),
        ("ignore_tiles", ctypes.c_int),
    )


class _Frame(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("format", ctypes.c_int),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("pixels", ctypes.c_void_p),
        ("pitch", ctypes.c_int64),
        ("chroma", ctypes.c_void_p),
        ("chroma_pitch", ctypes.c_int64),
    )


class _View(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("height", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("label_map_8", ctypes.POINTER(ctypes.c_uint8)),
        ("label_map_16", ctypes.POINTER(ctypes.c_uint16)),
        ("confidence", ctypes.POINTER(ctypes.c_uint8)),
        ("none_id", ctypes.c_int32),
        ("class_count", ctypes.c_int32),
        ("names", ctypes.POINTER(ctypes.c_char_p)),
        ("counts", ctypes.POINTER(ctypes.c_int64)),
        ("id_count", ctypes.c_int32),
        ("class_ids", ctypes.POINTER(ctypes.c_int32)),
        ("vocabulary_version", ctypes.c_int64),
        ("pre_ms", ctypes.c_double),
        ("engine_ms", ctypes.c_double),
        ("post_ms", ctypes.c_double),
    )


class Failed(Exception):
    """A call of libdedos gave a status; `status` is its name in STATUSES."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, eq=False)
class Labelled:
    """A copy of what libdedos made of a frame, by the names of `Segmentation`."""

    label_map: NDArray[np.uint8] | NDArray[np.uint16]
    confidence: NDArray[np.uint8]
    counts: NDArray[np.int64]
    classes: tuple[str, ...]
    class_ids: tuple[int, ...]
    none_id: int
    vocabulary_version: int


class Library:
    """The C interface, with exceptions for statuses."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        self.c.dedos_last_error.restype = ctypes.c_char_p
        self.c.dedos_version.restype = ctypes.c_char_p
        self.c.dedos_close.argtypes = self.c.dedos_result_free.argtypes = (ctypes.c_void_p,)
        for name in ("close", "result_free", "options_init"):
            getattr(self.c, f"dedos_{name}").restype = None
        self.c.dedos_options_init.argtypes = (ctypes.POINTER(_Options), ctypes.c_size_t)

    def check(self, status: int) -> None:
        if status:
            raise Failed(STATUSES[status], self.c.dedos_last_error().decode())

    def open(
        self,
        bundle: str | Path,
        classes: str | None,
        *,
        background: str = "threshold",
        threshold: float = -1.0,
        threads: int = 0,
        verify: bool = True,
        onnxruntime: str | Path | None = None,
        vocabulary_files: Sequence[Path] = (),
        words_file: Path | None = None,
        ignore_tiles: bool = False,
    ) -> Segmenter:
        options = _Options()
        self.c.dedos_options_init(ctypes.byref(options), ctypes.sizeof(options))
        options.background = BACKGROUNDS.index(background)
        options.threshold, options.threads, options.verify = threshold, threads, verify
        options.onnxruntime = str(onnxruntime or onnx_runtime()).encode()
        files = (ctypes.c_char_p * len(vocabulary_files))(
            *(str(path).encode() for path in vocabulary_files)
        )
        options.vocabulary_files, options.vocabulary_count = files, len(files)
        options.words_file = None if words_file is None else str(words_file).encode()
        options.ignore_tiles = ignore_tiles
        handle = ctypes.c_void_p()
        listed = None if classes is None else classes.encode()
        given = str(bundle).encode(), listed, ctypes.byref(options), ctypes.byref(handle)
        self.check(self.c.dedos_open(*given))
        return Segmenter(self, handle)


class Segmenter:
    """An open dedos_segmenter with one dedos_result."""

    def __init__(self, library: Library, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle
        self._result = ctypes.c_void_p()
        library.check(library.c.dedos_result_create(ctypes.byref(self._result)))

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._library.c.dedos_result_free(self._result)
        self._library.c.dedos_close(self._handle)
        self._result = self._handle = ctypes.c_void_p()

    def set_classes(self, classes: str) -> int:
        version = ctypes.c_int64()
        given = self._handle, classes.encode(), ctypes.byref(version)
        self._library.check(self._library.c.dedos_set_classes(*given))
        return version.value

    def set_words_file(self, path: Path) -> int:
        version = ctypes.c_int64()
        given = self._handle, str(path).encode(), ctypes.byref(version)
        self._library.check(self._library.c.dedos_set_words_file(*given))
        return version.value

    def run(self, pixels: NDArray[np.uint8], form: str = "bgr", matrix: int = 0) -> None:
        """Label uint8 [H, W, 3], or NV12 uint8 [H * 3 / 2, W]; rows may be apart."""
        height, width = pixels.shape[:2]
        if form == "nv12":
            height = height * 2 // 3
        frame = _Frame(ctypes.sizeof(_Frame), FORMATS.index(form) + matrix, height, width)
        frame.pixels, frame.pitch = pixels.ctypes.data, pixels.strides[0]
        given = self._handle, ctypes.byref(frame), self._result
        self._library.check(self._library.c.dedos_segment(*given))

    def segment(self, pixels: NDArray[np.uint8], form: str = "bgr", matrix: int = 0) -> Labelled:
        self.run(pixels, form, matrix)
        return self.result()

    def result(self) -> Labelled:
        view = _View(ctypes.sizeof(_View))
        self._library.check(self._library.c.dedos_result_view(self._result, ctypes.byref(view)))
        shape = view.height, view.width
        label_map = view.label_map_16 if not view.label_map_8 else view.label_map_8
        return Labelled(
            label_map=np.ctypeslib.as_array(label_map, shape).copy(),
            confidence=np.ctypeslib.as_array(view.confidence, shape).copy(),
            counts=np.array(view.counts[: view.class_count], np.int64),
            classes=tuple(name.decode() for name in view.names[: view.class_count]),
            class_ids=tuple(view.class_ids[: view.id_count]),
            none_id=view.none_id,
            vocabulary_version=view.vocabulary_version,
        )
