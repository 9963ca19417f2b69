"""The CUDA kernels as the compiler leaves them: built for every architecture, nothing spilled."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "runtime" / "native" / "frame_kernels.cu"
KERNELS = {
    "dedos_resize",
    "dedos_resize_nv12",
    "dedos_leaders_f32",
    "dedos_leaders_f16",
    "dedos_rivals_f32",
    "dedos_rivals_f16",
    "dedos_labels_f32_u8",
    "dedos_labels_f32_u16",
    "dedos_labels_f16_u8",
    "dedos_labels_f16_u16",
}
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 120)
MOST_REGISTERS = 128
"""With 256 threads a block, two blocks still share a multiprocessor."""


def _nvcc() -> str | None:
    """Return CUDA's compiler: on the path, else that of the package nvidia-cuda-nvcc."""
    packaged = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvcc"))
    return shutil.which("nvcc") or next(map(str, packaged), None)


NVCC = _nvcc()


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_without_spills(architecture: int, tmp_path: Path) -> None:
    assert NVCC is not None
    known = subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True)
    if f"sm_{architecture}" not in known.stdout.split():
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    done = subprocess.run(
        [
            NVCC,
            "-std=c++17",
            "-O3",
            "-fmad=false",
            "-cubin",
            f"-arch=sm_{architecture}",
            "-Xptxas",
            "-v",
            "-Xcompiler",
            "-Wall",
            "-Werror",
            "all-warnings",
            "-o",
            str(tmp_path / "kernels.cubin"),
            str(SOURCE),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    facts = _kernel_facts(done.stderr)
    assert facts.keys() == KERNELS
    for name, text in facts.items():
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in text, name
        used = re.search(r"Used (\d+) registers", text)
        assert used is not None and int(used.group(1)) <= MOST_REGISTERS, (name, text)


def _kernel_facts(log: str) -> dict[str, str]:
    """Return what ptxas says of each kernel, by name."""
    parts = re.split(r"Function properties for (\w+)\n", log)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
