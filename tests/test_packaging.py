"""What is built and installed: the wheel, the sdist, and a wheel made from that sdist."""

from __future__ import annotations

import struct
import subprocess
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from cuda_tools import NVCC, PTXAS_12
from wheels import ROOT, Installed, build, install

from dedos_deploy.runtime.gpu.kernels_file import KERNELS, kernels_in

ROOMS = ("runtime", "export", "training", "calib")
WERROR = {"cmake.define.DEDOS_WERROR": "ON"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # With CUDA's compilers of both major versions, as wheels.yml has them.
    compilers = {"DEDOS_NVCC": NVCC, "DEDOS_PTXAS": PTXAS_12} if NVCC and PTXAS_12 else {}
    settings = {f"cmake.define.{name}": path for name, path in compilers.items()}
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"), WERROR | settings)


@pytest.fixture(scope="module")
def wheel_from_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("from_sdist")
    with tarfile.open(sdist) as archive:
        # Python 3.10 and 3.11 have it since 3.10.12 and 3.11.4.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **safely)
    (source,) = folder.iterdir()
    return build("wheel", source, folder / "dist")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(wheel, tmp_path_factory.mktemp("venv"))


def package_files() -> set[str]:
    """Python files, stubs, markers, bundles and fonts of the package, through the links."""
    folder = ROOT / "dedos_deploy"
    files = [path for path in folder.iterdir() if path.is_file()]
    for child in folder.iterdir():
        if child.is_dir():
            files += [path for path in child.resolve().rglob("*") if path.is_file()]
    kinds = {".py", ".pyi", ".typed", ".dedos", ".otf", ".ttf"}
    names = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.suffix in kinds or path.name == "py.typed"
    }
    return {name if name.startswith("dedos_deploy/") else f"dedos_deploy/{name}" for name in names}


@pytest.mark.parametrize("which", ["wheel", "wheel_from_sdist"])
def test_wheel_holds_the_package_and_nothing_else(
    which: str, request: pytest.FixtureRequest
) -> None:
    with zipfile.ZipFile(request.getfixturevalue(which)) as archive:
        names = set(archive.namelist())
        kinds = {entry.external_attr >> 16 & 0o170000 for entry in archive.infolist()}
    assert kinds <= {0, 0o100000}, "a wheel cannot hold links"
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dedos_deploy"}
    assert package_files() <= names
    assert "dedos_deploy/runtime/sinks/fonts/OFL.txt" in names
    for room in ROOMS:
        assert f"dedos_deploy/{room}/__init__.py" in names
    assert any(name.startswith("dedos_deploy/_native.") and ".so" in name for name in names)
    for text in ("LICENSE", "THIRD_PARTY.md", "CREDITS.md"):
        assert any(name.endswith(f".dist-info/licenses/{text}") for name in names)
    assert not [name for name in names if name.endswith((".cpp", ".h", ".cu", ".pyc"))]


@pytest.mark.skipif(NVCC is None or PTXAS_12 is None, reason="needs nvidia-cuda-nvcc and -cu12")
def test_kernels_of_a_wheel_serve_every_gpu_and_drivers_from_cuda_12_on(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        image = archive.read(f"dedos_deploy/{KERNELS}")
    found = kernels_in(image)
    assert found.compiled == ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "11.0", "12.0")
    assert (found.ptx, found.oldest_cuda) == ("7.5", "12.0")
    # Drivers of CUDA 12 read what is written as it is, and ELF of ABI 7; from 10.0 on, which came with
    # 12.8, it is 8. nvcc 13 writes 8 for all, and compresses with Zstandard.
    assert image.count(b"\n.version 8.0\n.target sm_75\n") == 1
    starts = [start for start in range(0, len(image), 8) if image[start : start + 4] == b"\x7fELF"]
    assert [image[start + 8] for start in starts] == [7] * 6 + [8] * 3
    machines = {struct.unpack_from("<H", image, start + 18)[0] for start in starts}
    assert machines == {190}, "not all are for NVIDIA's processors"


def test_sdist_holds_everything_to_build_from(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
    assert all(member.isreg() for member in members), "links do not survive every unpacker"
    names = {member.name.split("/", 1)[1] for member in members}
    assert package_files() <= names
    needed = {"CMakeLists.txt", "LICENSE", "THIRD_PARTY.md", "CREDITS.md", "README.md"}
    needed |= {"pyproject.toml"}
    needed |= {f"runtime/native/{path.name}" for path in (ROOT / "runtime/native").iterdir()}
    assert needed <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_installed_wheel_is_what_runs(installed: Installed, tmp_path: Path) -> None:
    code = (
        "import dedos_deploy.runtime, dedos_deploy._native as native\n"
        "print(dedos_deploy.runtime.__file__, native.__file__, sep='\\n')"
    )
    finished = subprocess.run(
        [installed.python, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    for path in finished.stdout.splitlines():
        assert Path(path).is_relative_to(installed.site / "dedos_deploy")


def test_no_bare_rooms_are_installed(installed: Installed, tmp_path: Path) -> None:
    assert not [room for room in ROOMS if (installed.site / room).exists()]
    code = "import importlib.util, sys; sys.exit(any(map(importlib.util.find_spec, sys.argv[1:])))"
    command = [str(installed.python), "-I", "-c", code, *ROOMS]
    assert subprocess.run(command, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    "script", [entry.name for entry in distribution("dedos-deploy").entry_points]
)
def test_installed_scripts_show_help(installed: Installed, script: str, tmp_path: Path) -> None:
    finished = subprocess.run(
        [installed.folder / "bin" / script, "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(f"usage: {script}")
