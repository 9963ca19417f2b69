"""The README's words work: every command parses, and the Python example runs."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of one language; fences open and close in turn."""
    parts = re.split(r"^```(.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    fences, bodies = parts[1::2], parts[2::2]
    opened = list(zip(fences, bodies, strict=True))[::2]
    return [body for name, body in opened if name == language]


def commands() -> list[str]:
    lines = []
    for page in PAGES:
        for block in blocks(page, ""):
            joined = block.replace("\\\n", " ")
            lines += [line for line in joined.splitlines() if line.startswith("dedos-")]
    return lines


def test_there_are_commands_to_check() -> None:
    verbs = {line.split()[0] for line in commands()}
    tools = ("train", "export", "eval", "run", "label", "bench", "doctor")
    assert verbs == {f"dedos-{tool}" for tool in tools}


@pytest.mark.parametrize("line", commands())
def test_command_parses(line: str) -> None:
    verb, *arguments = shlex.split(line, comments=True)
    module = importlib.import_module(f"dedos_deploy.cli.{verb.removeprefix('dedos-')}")
    if arguments and arguments[0] in getattr(module, "VERBS", {}):
        module = importlib.import_module(f"dedos_deploy.cli.{module.VERBS[arguments.pop(0)]}")
    module.build_parser().parse_args(arguments)


def test_python_example_runs() -> None:
    (example,) = blocks(ROOT / "README.md", "python")
    scope = {"frame_bgr": np.zeros((48, 64, 3), np.uint8)}
    exec(compile(example, "README.md", "exec"), scope)
    assert scope["result"].label_map.shape == (48, 64)  # type: ignore[attr-defined]


def test_what_a_planner_asks_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks(ROOT / "docs" / "robots.md", "python")
    scope: dict[str, Any] = {}
    exec(compile(example, "robots.md", "exec"), scope)
    assert int(capsys.readouterr().out.splitlines()[-1].split()[0]) > 100
    assert scope["small"].shape == (120, 160)
    assert scope["drivable"].mean() > 0.2


def test_links_lead_to_files() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_file_that_contributors_are_pointed_to_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|pyi|cpp|txt))`", text))
    assert len(named) > 20
    assert not {name for name in named if not (ROOT / name).exists()}


ROOMS = "runtime|training|export|calib|dedos_deploy|tests|benchmarks|examples|docs"


def resolves(name: str) -> bool:
    """Tell whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    """Files and modules move; pages that name them have to follow."""
    text = page.read_text(encoding="utf-8")
    files = re.findall(rf"`((?:{ROOMS})/[\w./-]+\.\w+)", text)
    names = re.findall(r"`(dedos_deploy(?:\.\w+)+)", text)
    for module, imported in re.findall(
        r"^from (dedos_deploy[\w.]*) import ([\w, ]+)", text, re.MULTILINE
    ):
        names += [f"{module}.{name.strip()}" for name in imported.split(",")]
    assert not [file for file in files if not (ROOT / file).exists()]
    assert not [name for name in names if not resolves(name)]
