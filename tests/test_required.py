"""DEDOS_REQUIRE=all: what is missing fails instead of being skipped, GPU tests excepted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
CASES = """
import pytest

def test_skips_itself():
    pytest.skip("no such program")

@pytest.mark.skipif(True, reason="no such package")
def test_is_skipped():
    pass

@pytest.mark.xfail
def test_is_known_to_fail():
    assert False

@pytest.mark.gpu
@pytest.mark.skipif(True, reason="no such card")
def test_of_a_gpu():
    pass
"""


def outcome(folder: Path, required: str | None) -> str:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs one\n")
    (folder / "test_cases.py").write_text(CASES)
    environment = {name: text for name, text in os.environ.items() if name != "DEDOS_REQUIRE"}
    if required is not None:
        environment["DEDOS_REQUIRE"] = required
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    return done.stdout.strip().splitlines()[-1].split(" in ")[0]


@pytest.mark.parametrize(
    ("required", "expected"),
    [(None, "3 skipped, 1 xfailed"), ("all", "1 failed, 1 skipped, 1 xfailed, 1 error")],
)
def test_only_gpu_tests_may_be_skipped(required: str | None, expected: str, tmp_path: Path) -> None:
    assert outcome(tmp_path, required) == expected


def test_a_file_that_is_skipped_whole_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "test_whole.py").write_text("import pytest\npytest.importorskip('not_there')\n")
    assert "1 error" in outcome(tmp_path, "all")
