"""Environments that `.ci/corpus`, `.ci/ros` and `.ci/triton` make, and what a run of pytest there came to."""

from __future__ import annotations

import ast
import fcntl
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from wheels import ROOT


@contextmanager
def environment(name: str, last_step: str) -> Iterator[Path]:
    """Folder of an environment, kept from other checkouts meanwhile; skips where there is none.

    last_step: of `.ci/NAME`, whose key ends with the checkout that it was made for, if it has this package.
    """
    variable = f"DEDOS_{name.upper()}"
    folder = Path(os.environ.get(variable, ROOT / "build" / name)).resolve()
    if not (folder / f".{last_step}").is_file():
        pytest.skip(f"{folder} is not set up: .ci/{name} {os.path.relpath(folder)}")
    with (folder / ".owned").open() as lock:
        while True:
            _bring_up_to_date(name, folder)
            fcntl.flock(lock, fcntl.LOCK_SH)
            # Another checkout may have taken it over in between.
            _, _, checkout = (folder / f".{last_step}").read_text().rstrip("\n").partition(" ")
            if checkout in ("", str(ROOT)):
                break
            fcntl.flock(lock, fcntl.LOCK_UN)
        yield folder


def _bring_up_to_date(name: str, folder: Path) -> None:
    done = subprocess.run(
        [ROOT / ".ci" / name, folder], capture_output=True, text=True, timeout=570, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def case_names(folder: Path) -> list[str]:
    """Names of the tests in `cases_*.py`, which are read and not imported."""
    return [
        node.name
        for path in sorted(folder.glob("cases_*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def check_case(found: dict[str, str], name: str) -> None:
    """Fail unless a case ran and nothing was wrong. found: as of `verdicts`."""
    wrong = {case: text for case, text in found.items() if re.fullmatch(rf"{name}(\[.*\])?", case)}
    assert wrong, f"{name} did not run"
    assert not any(wrong.values()), "\n".join(wrong.values())


def verdicts(report: Path) -> dict[str, str]:
    """Return by name of each test of a report in JUnit's XML what went wrong, "" for nothing."""
    found = {}
    for case in ET.parse(report).iter("testcase"):
        wrong = [each for each in case if each.tag in ("failure", "error", "skipped")]
        found[case.attrib["name"]] = "\n".join(
            f"{each.get('message')}\n{each.text}" for each in wrong
        )
    return found
