"""benchmarks/tuned_words.py: what is tuned on and what is scored never meet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from micro import Write

from dedos_deploy.errors import BadInputError
from dedos_deploy.label_files import split_items


@pytest.fixture(scope="module")
def benchmark(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_script("tuned_words")


def names(items: object) -> list[str]:
    return [image.stem for image, _ in items]  # type: ignore[attr-defined]


def test_halves_thirds_and_drives(
    benchmark: ModuleType, write_folder: Write, tmp_path: Path
) -> None:
    root = write_folder(items=12)
    tuned_on, scored = benchmark.parts_of(root, None, "", None, 60)
    assert names(tuned_on) == [f"{index:03}" for index in range(6)]
    assert names(scored) == ["008", "009", "010", "011"]
    tuned_on, scored = benchmark.parts_of(root, None, "", "01", 1)
    assert names(tuned_on) == [f"{index:03}" for index in range(10)] and names(scored) == ["011"]
    assert names(benchmark.parts_of(root, None, "00", None, 2)[1]) == ["007", "009"]
    with pytest.raises(BadInputError, match="0 of 12 frames begin with 'x'"):
        benchmark.parts_of(root, None, "", "x", 60)
    folder = benchmark.as_folder(root, tuned_on, tmp_path / "linked")
    assert names(split_items(folder, "train")) == names(tuned_on)
