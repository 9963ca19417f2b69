"""Cases that need Ray or S3 run in the environment of `.ci/corpus`; each is reported as a test of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from ci_environments import case_names, check_case, environment, verdicts

CASES = Path(__file__).with_name("machines")


@pytest.fixture(scope="module")
def found(bundle: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    report = tmp_path_factory.mktemp("cases") / "report.xml"
    with environment("corpus", "dedos") as folder:
        command = [folder / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--rootdir={CASES}", "--timeout=180", "-o", "python_files=cases_*.py"]
        done = subprocess.run(
            [*command, f"--junitxml={report}", CASES],
            env={**os.environ, "DEDOS_CASES_BUNDLE": bundle},
            capture_output=True,
            text=True,
            timeout=540,
        )
    assert report.is_file(), done.stdout + done.stderr
    return verdicts(report)


@pytest.mark.parametrize("name", case_names(CASES))
def test_case(found: dict[str, str], name: str) -> None:
    check_case(found, name)
