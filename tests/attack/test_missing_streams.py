"""Programs that are started without stdin, stdout or stderr, as some services start theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="descriptors of POSIX")

PROGRAM = """
import argparse, os, sys
from dedos_deploy.cli._main import run_command
from dedos_deploy.errors import BadInputError

def run(args):
    # As outputs and libraries do: unbuffered, and past Python's own streams.
    with open(args.output, "wb", buffering=0) as file:
        file.write(b"first ")
        print("a result", flush=True)
        print("a warning", file=sys.stderr, flush=True)
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
