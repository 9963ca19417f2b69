"""Cases that need Triton Inference Server run in its environment; each is reported as a test of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ci_environments import case_names, check_case, verdicts

CASES = Path(__file__).with_name("cases")


@pytest.fixture(scope="module")
def found(triton_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    report = tmp_path_factory.mktemp("cases") / "report.xml"
    command = [triton_folder / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"--rootdir={CASES}", "--timeout=180", "-o", "python_files=cases_*.py"]
    done = subprocess.run(
        [*command, f"--junitxml={report}", CASES], capture_output=True, text=True, timeout=540
    )
    assert report.is_file(), done.stdout + done.stderr
    return verdicts(report)


@pytest.mark.parametrize("name", case_names(CASES))
def test_case(found: dict[str, str], name: str) -> None:
    check_case(found, name)
