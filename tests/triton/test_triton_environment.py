"""`.ci/triton`: what it shares with `.ci/ros` is tested in `tests/ros`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ci_environments import ROOT


@pytest.mark.parametrize(
    ("folder", "code", "sentence"),
    [
        ("--help", 2, "usage: .ci/triton FOLDER\n"),
        (
            "full",
            1,
            "holds something else than an environment of .ci/triton; give an empty or a new",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    tmp_path: Path, folder: str, code: int, sentence: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    done = subprocess.run(
        [ROOT / ".ci/triton", folder], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code and sentence in done.stderr and done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "full", tmp_path / "full/file"]


def test_the_server_runs_with_the_packages_of_its_environment(triton_folder: Path) -> None:
    program = (triton_folder / "bin/tritonserver").read_text()
    assert f'PATH="{triton_folder}/bin:' in program
    backend = next(triton_folder.glob("lib/python*/site-packages/pytriton/tritonserver/backends"))
    assert (backend / "python/triton_python_backend_stub").is_file()
