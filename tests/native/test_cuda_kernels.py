"""The CUDA kernels as the compiler leaves them: built for every architecture, nothing spilled."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from cuda_tools import NVCC

from dedos_deploy.errors import EngineError
from dedos_deploy.runtime.gpu.kernels_file import KERNEL_NAMES, kernels_in

SOURCE = Path(__file__).parents[2] / "runtime" / "native" / "frame_kernels.cu"
KERNELS = {
    "dedos_resize",
    "dedos_leaders_f32",
    "dedos_leaders_f16",
    "dedos_rivals_f32",
    "dedos_rivals_f16",
    "dedos_labels_f32_u8",
    "dedos_labels_f32_u16",
    "dedos_labels_f16_u8",
    "dedos_labels_f16_u16",
}
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 110, 120)
MOST_REGISTERS = 128
"""With 256 threads a block, two blocks still share a multiprocessor."""

pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")


class Compiled(NamedTuple):
    """What nvcc made of the kernels, and what it said of each on each architecture."""

    image: bytes
    facts: dict[int, dict[str, str]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """As CMakeLists.txt has them made: one PTX, assembled for every architecture."""
    assert NVCC is not None
    listed = subprocess.run([NVCC, "--list-gpu-code"], capture_output=True, text=True, check=True)
    known = [f"sm_{number}" for number in ARCHITECTURES if f"sm_{number}" in listed.stdout.split()]
    file = tmp_path_factory.mktemp("kernels") / "kernels.fatbin"
    codes = ",".join(("compute_75", *known))
    flags = "-std=c++17 -O3 -fmad=false -fatbin -Xptxas -v -Xcompiler -Wall -Werror all-warnings"
    command = [NVCC, *flags.split(), f"-gencode=arch=compute_75,code=[{codes}]", "-o", str(file)]
    done = subprocess.run([*command, str(SOURCE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Compiled(file.read_bytes(), _facts(done.stderr))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_compile_without_spills(architecture: int, compiled: Compiled) -> None:
    if architecture not in compiled.facts:
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    facts = compiled.facts[architecture]
    assert facts.keys() == KERNELS
    for name, text in facts.items():
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in text, name
        used = re.search(r"Used (\d+) registers", text)
        assert used is not None and int(used.group(1)) <= MOST_REGISTERS, (name, text)


def test_a_fat_binary_says_for_which_gpus_it_is(compiled: Compiled) -> None:
    found = kernels_in(compiled.image)
    assert found.compiled == tuple(f"{n // 10}.{n % 10}" for n in sorted(compiled.facts))
    assert found.ptx == "7.5" and re.fullmatch(r"1[2-9]\.\d+", found.oldest_cuda or "")


@pytest.mark.parametrize("length", [0, 10, 16, 30, 5000, -1])
def test_a_part_of_a_fat_binary_is_refused(compiled: Compiled, length: int) -> None:
    with pytest.raises(EngineError, match="is damaged; install dedos-deploy again"):
        kernels_in(compiled.image[:length])


def test_a_fat_binary_whose_parts_have_no_length_is_refused(compiled: Compiled) -> None:
    with pytest.raises(EngineError, match="is damaged"):
        kernels_in(compiled.image[:16] + bytes(len(compiled.image) - 16))


def test_every_kernel_is_looked_up_when_they_are_loaded() -> None:
    assert set(KERNEL_NAMES) == KERNELS and len(KERNEL_NAMES) == len(KERNELS)


def _facts(log: str) -> dict[int, dict[str, str]]:
    """Return what ptxas says of each kernel, by architecture and name."""
    facts: dict[int, dict[str, str]] = {}
    for name, number, text in re.findall(
        r"Compiling entry function '(\w+)' for 'sm_(\d+)'\n((?:(?!.*Compiling).*\n)*)", log
    ):
        facts.setdefault(int(number), {})[name] = text
    return facts
