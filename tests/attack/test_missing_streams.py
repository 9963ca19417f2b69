"""Programs that are started without stdin, stdout or stderr, as some services start theirs, or with
streams that take nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="descriptors of POSIX")

PROGRAM = """
import argparse, contextlib, os, sys
from dedos_deploy.cli._main import run_command
from dedos_deploy.errors import BadInputError

def run(args):
    # As outputs and libraries do: unbuffered, and past Python's own streams.
    with open(args.output, "wb", buffering=0) as file:
        file.write(b"first ")
        print("a result", flush=True)
        print("a warning", file=sys.stderr, flush=True)
        with contextlib.suppress(BrokenPipeError):
            os.write(1, b"native"), os.write(2, b"native")
        file.write(b"last")
    if args.refuse:
        raise BadInputError("no")
    return 0

def parser():
    parser = argparse.ArgumentParser("dedos-x")
    parser.add_argument("output")
    parser.add_argument("--refuse", action="store_true")
    return parser

sys.exit(run_command(parser, run))
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("refuse", [False, True])
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_what_is_printed_lands_in_no_file(
    closed: Sequence[int], refuse: bool, tmp_path: Path
) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    path = tmp_path / "output"
    command = [sys.executable, "-c", PROGRAM, str(path), *(["--refuse"] if refuse else [])]
    found = subprocess.run(command, capture_output=True, text=True, preexec_fn=close)
    assert path.read_bytes() == b"first last"
    assert found.returncode == (2 if refuse else 0), found.stderr
    assert "Traceback" not in found.stderr
    assert ("error: no" in found.stderr) == (refuse and 2 not in closed)
    assert "error: no" not in found.stdout


FULL = "what was to be printed cannot be written (No space left on device); check where stdout goes"
RUN = ("dedos-run", "--source", "scene:street?frames=2&size=64x96", "--classes", "road")


@pytest.mark.timeout(60)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("full", "arguments", "code"),
    [
        ((1,), ("dedos-run", "--help"), 2),
        ((1, 2), ("dedos-run", "--credits"), 2),
        ((2,), ("dedos-eval", "nonsense"), 2),
        ((1,), RUN, 2),
        ((2,), RUN, 0),
        ((1, 2), RUN, 2),
    ],
)
def test_a_full_stream_costs_what_it_was_to_take_and_no_more(
    full: Sequence[int], arguments: Sequence[str], code: int, unbuffered: str, tmp_path: Path
) -> None:
    def redirect() -> None:
        for number in full:
            os.dup2(os.open("/dev/full", os.O_WRONLY), number)

    name, *rest = arguments
    output = tmp_path / "o.jsonl"
    rest += ["--output", str(output)] if arguments is RUN else []
    module = f"dedos_deploy.cli.{name.removeprefix('dedos-')}"
    done = subprocess.run(
        [sys.executable, "-m", module, *rest],
        capture_output=True,
        text=True,
        preexec_fn=redirect,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    if 1 in full and 2 not in full:
        assert done.stderr.endswith(f"{name}: error: {FULL}\n")
    if arguments is RUN:
        assert [json.loads(line)["frame_id"] for line in output.open()] == [0, 1]


@pytest.mark.timeout(60)
def test_messages_that_nobody_takes_end_no_work(tmp_path: Path) -> None:
    """Progress of a long command, to a log on a disk that is full or a reader that is gone."""
    reading, writing = os.pipe()
    os.close(reading)
    path = tmp_path / "output"
    command = [sys.executable, "-c", PROGRAM, str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writing)
    os.close(writing)
    assert done.returncode == 0 and path.read_bytes() == b"first last"
