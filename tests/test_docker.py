"""The Dockerfiles, read by a parser: what they name exists, and they follow what images should."""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

dockerfile_parse = pytest.importorskip("dockerfile_parse")

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
SCRIPTS = {
    e.name for e in distribution("dedos-deploy").entry_points if e.group == "console_scripts"
}


@pytest.fixture(params=FILES, ids=lambda path: path.suffix[1:])
def steps(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    import io

    content = request.param.read_bytes()
    parsed: list[dict[str, Any]] = dockerfile_parse.DockerfileParser(
        fileobj=io.BytesIO(content)
    ).structure
    return [step for step in parsed if step["instruction"] != "COMMENT"]


def _values(steps: list[dict[str, Any]], instruction: str) -> list[str]:
    return [step["value"] for step in steps if step["instruction"] == instruction]


def test_there_is_one_per_platform() -> None:
    assert [path.suffix for path in FILES] == [".jetpack6", ".jetpack7", ".x86"]


def test_bases_are_named_with_their_version(steps: list[dict[str, Any]]) -> None:
    arguments = dict(value.split("=", 1) for value in _values(steps, "ARG"))
    for value in _values(steps, "FROM"):
        image = value.split(" AS ")[0].strip()
        for name, default in arguments.items():
            image = image.replace(f"${{{name}}}", default)
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", image), image


def test_every_instruction_is_known(steps: list[dict[str, Any]]) -> None:
    known = {
        "ARG",
        "FROM",
        "RUN",
        "WORKDIR",
        "COPY",
        "USER",
        "ENV",
        "VOLUME",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    assert {step["instruction"] for step in steps} <= known


def test_the_program_runs_as_a_user_and_keeps_its_cache(steps: list[dict[str, Any]]) -> None:
    assert _values(steps, "USER") == ["dedos"] and _values(steps, "VOLUME") == ["/cache"]
    assert any("DEDOS_CACHE_DIR=/cache" in value for value in _values(steps, "ENV"))
    last = max(i for i, step in enumerate(steps) if step["instruction"] == "RUN")
    assert steps[last]["value"].startswith("useradd")


def test_programs_exist(steps: list[dict[str, Any]]) -> None:
    import json

    (entry,) = (json.loads(value) for value in _values(steps, "ENTRYPOINT"))
    (check,) = _values(steps, "HEALTHCHECK")
    command = json.loads(check[check.index("[") :])
    assert entry[0] in SCRIPTS and command[0] in SCRIPTS
    from dedos_deploy.cli.doctor import build_parser

    build_parser().parse_args(command[1:])


def test_package_lists_are_removed_in_the_same_layer(steps: list[dict[str, Any]]) -> None:
    for value in _values(steps, "RUN"):
        if "apt-get install" in value:
            assert "--no-install-recommends" in value and "rm -rf /var/lib/apt/lists/*" in value
        if "pip install" in value:
            assert "--no-cache-dir" in value


def test_settings_of_the_build_exist(steps: list[dict[str, Any]]) -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text()
    settings = re.findall(r"cmake\.define\.(\w+)=", " ".join(_values(steps, "RUN")))
    assert "DEDOS_CUDA" in settings
    assert all(re.search(rf"set\({name}\b", cmake) for name in settings)


def test_examples_in_the_comments_parse(request: pytest.FixtureRequest) -> None:
    import shlex

    from dedos_deploy.cli.run import build_parser

    for path in FILES:
        text = re.sub(r"\\\n#\s*", " ", path.read_text())
        (line,) = re.findall(r"^#\s+(docker run .*)$", text, re.MULTILINE)
        words = shlex.split(line)
        image = next(i for i, word in enumerate(words) if word.startswith("dedos-deploy:"))
        build_parser().parse_args(words[image + 1 :])
