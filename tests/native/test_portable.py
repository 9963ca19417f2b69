"""The native operations on other processors: aarch64, as on Jetson, by cross-compiler and emulator."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NATIVE = Path(__file__).parents[2] / "runtime" / "native"
CORE = (
    "blend.cpp",
    "confidence_curves.cpp",
    "confusion.cpp",
    "label_loops.cpp",
    "label_map.cpp",
    "majority.cpp",
    "nv12.cpp",
    "regions.cpp",
    "stabilise.cpp",
)
BINDING = (
    "bind.cpp",
    "bind_blend.cpp",
    "bind_confidence.cpp",
    "bind_parent.cpp",
    "bind_regions.cpp",
    "dlpack.cpp",
)
# Those of CMakeLists.txt.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fno-trapping-math",
    "-fno-math-errno",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-pthread",
    "-static",
]


def _compiled(compiler: str, folder: Path) -> Path:
    program = folder / f"check-{Path(compiler).name}"
    sources = [str(HERE / "portable_check.cpp"), *(str(NATIVE / name) for name in CORE)]
    subprocess.run([compiler, *FLAGS, f"-I{NATIVE}", *sources, "-o", str(program)], check=True)
    return program


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("g++") or shutil.which("c++")
    assert compiler is not None, "the native module was built, so there is a C++ compiler"
    return _output(str(_compiled(compiler, tmp_path_factory.mktemp("here"))))


def test_operations_equal_their_plain_versions(here: str) -> None:
    assert here.startswith("0 failed, hash ")


def test_aarch64_computes_the_same_bits(here: str, tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user")
    assert _output(emulator, str(_compiled(compiler, tmp_path))) == here


def test_the_module_links_for_aarch64(tmp_path: Path) -> None:
    """Against this machine's Python headers, which differ from a Jetson's in nothing that is used."""
    compiler, names = shutil.which("aarch64-linux-gnu-g++"), shutil.which("aarch64-linux-gnu-nm")
    if compiler is None or names is None:
        pytest.skip("needs g++-aarch64-linux-gnu")
    import nanobind

    bind = Path(nanobind.include_dir())
    headers = [NATIVE, bind, bind.parent / "ext/robin_map/include", sysconfig.get_path("include")]
    module = tmp_path / "_native.so"
    subprocess.run(
        [
            compiler,
            "-std=c++17",
            "-O1",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-fno-strict-aliasing",
            *(f"-I{path}" for path in headers),
            *(str(NATIVE / name) for name in BINDING),
            *(str(NATIVE / name) for name in CORE),
            str(bind.parent / "src/nb_combined.cpp"),
            "-o",
            str(module),
        ],
        check=True,
    )
    defined = _output(names, "-D", "--defined-only", str(module))
    missing = _output(names, "-D", "--undefined-only", str(module)).split()
    assert "PyInit__native" in defined
    # Nothing of this package is left for a loader to look for in vain.
    assert not [name for name in missing if "dedos" in name or "nanobind" in name]
