"""Signals: a run ends in two seconds whatever hangs, and what does not hang is completed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "runtime")]

from hanging_bundle import write_hanging_bundle  # noqa: E402
from tiny_bundle import write_tiny_bundle  # noqa: E402

from dedos_deploy.interrupts import LIMIT_S  # noqa: E402

HUNG_S = 6.0
"""Long past two seconds also on a machine that is busy, short of any driver's own patience."""


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hanging_bundle(tmp_path_factory.mktemp("hanging") / "bundle")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 90
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline_s:
            process.kill()
            raise AssertionError(f"it did not begin: {process.communicate()}")
        time.sleep(0.05)


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return stdout and stderr; fail when the process does not end."""
    try:
        return process.communicate(timeout=HUNG_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"still there: {process.communicate()}") from None


# A run of dedos-run whose engine never answers

KINDS = {
    "one": ["--source", "test:bars?fps=20"],
    "several": ["--source", "a=test:bars?fps=20", "--source", "b=test:bars?fps=20"],
    "served": ["--source", "a=test:bars?fps=20", "--serve", "0"],
}


def hang_in_the_engine(bundle: Path, folder: Path, kind: str) -> subprocess.Popen[str]:
    """Start a run and return it once its watchdog has said that the engine does not answer."""
    said = folder / "stderr"
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from dedos_deploy.cli.run import main; raise SystemExit(main())",
                "--bundle",
                str(bundle),
                "--classes",
                "red",
                "--watchdog",
                "1",
                "--threads",
                "1",
                *KINDS[kind],
            ],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    wait_for(lambda: "is stuck" in said.read_text(), process)
    return process


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_ends_a_run_whose_engine_never_returns(
    hanging: Path, tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    process = hang_in_the_engine(hanging, tmp_path, kind)
    process.send_signal(number)
    out, _ = ended(process)
    assert process.returncode == 130
    said = (tmp_path / "stderr").read_text()
    assert "left behind" in said and "engine" in said
    assert "frames" in out  # the summary


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_signal_ends_it_at_once(hanging: Path, tmp_path: Path, kind: str) -> None:
    process = hang_in_the_engine(hanging, tmp_path, kind)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    ended(process)
    assert process.returncode in (130, -signal.SIGINT)
    assert time.monotonic() - started < LIMIT_S


# Other things that hang, in a process where they are made to

SCRIPT = """
import sys, threading
from dedos_deploy.cli.run import main
from dedos_deploy.runtime import Segmenter
for_ever = lambda *_: threading.Event().wait(600)
{patch}
print("begun", file=sys.stderr, flush=True)
raise SystemExit(main())
"""
HANGING = {
    "a sink's write": "from dedos_deploy.runtime.sinks.files import LastPicture\n"
    "LastPicture.write = for_ever",
    "a sink's close": "from dedos_deploy.runtime.sinks.files import LastPicture\n"
    "LastPicture.close = for_ever",
    "a source's read": "from dedos_deploy.runtime.flow.stages import ObservedSource\n"
    "import dedos_deploy.runtime.sources.bars as b\n"
    "first = b.BarsSource.read\n"
    "def read(self, timeout_s, seen=[0]):\n"
    "    seen[0] += 1\n"
    "    return first(self, timeout_s) if seen[0] < 12 else for_ever()\n"
    "b.BarsSource.read = read",
    "a source's close": "import dedos_deploy.runtime.sources.bars as b\nb.BarsSource.close = for_ever",
    "the engine's close": "Segmenter.close = for_ever",
}


@pytest.mark.parametrize("what", HANGING)
def test_whatever_hangs_the_other_outputs_are_completed(
    tiny: Path, tmp_path: Path, what: str
) -> None:
    code = SCRIPT.format(patch=HANGING[what])
    lines = tmp_path / "o.jsonl"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            "--bundle",
            str(tiny),
            "--classes",
            "red",
            "--threads",
            "1",
            "--source",
            "test:bars?fps=20&size=48x64",
            "--output",
            str(tmp_path / "o.png"),
            "--output",
            str(tmp_path / "o.avi"),
            "--output",
            str(lines),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: lines.exists() and lines.read_text().count("\n") >= 5, process)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    out, err = ended(process)
    assert process.returncode == 130, err
    assert "left behind" in err
    assert "o.avi (" in out and (tmp_path / "o.avi").stat().st_size > 0
    assert all(json.loads(line) for line in lines.read_text().splitlines())
    assert not [name for name in os.listdir(tmp_path) if ".tmp" in name]


def test_a_main_thread_in_native_code_is_ended_all_the_same(tmp_path: Path) -> None:
    # A lock of the C library: taken twice by one thread it waits for ever, whatever signals come.
    code = """
import argparse, ctypes, sys
from pathlib import Path
from dedos_deploy.cli._main import run_command
from dedos_deploy.files import Temporary
def run(args):
    Temporary(Path(args.folder) / "o.mp4")
    print("begun", flush=True)
    libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    libc.pthread_mutex_init(lock, None)
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)
    return 0
def parser():
    made = argparse.ArgumentParser(prog="dedos-x")
    made.add_argument("folder")
    return made
raise SystemExit(run_command(parser, run))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(1.0)  # from the line to the lock
    process.send_signal(signal.SIGINT)
    _, err = ended(process)
    assert process.returncode == 130
    assert err == (
        "dedos-x: interrupted; did not end within 2 s and is left behind: what was being loaded\n"
    )
    assert os.listdir(tmp_path) == []


def test_a_page_that_hangs_keeps_no_output_from_being_completed(tiny: Path, tmp_path: Path) -> None:
    patch = "from dedos_deploy.runtime.serving.app import Server\nServer.close = for_ever"
    video, lines = tmp_path / "a.avi", tmp_path / "a.jsonl"
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            SCRIPT.format(patch=patch),
            "--bundle",
            str(tiny),
            "--classes",
            "red",
            "--source",
            "a=test:bars?fps=20&size=48x64",
            "--threads",
            "1",
            "--serve",
            "0",
            "--output",
            str(video),
            "--output",
            str(lines),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: lines.exists() and lines.read_text().count("\n") >= 5, process)
    process.send_signal(signal.SIGTERM)
    _, err = ended(process)
    assert process.returncode == 130, err
    assert "not completed and left behind: page" in err
    assert video.stat().st_size > 0


# Every verb

SWALLOWING = """
import argparse, sys, threading, time
from dedos_deploy.cli._main import run_command
class Odd:
    def __del__(self):
        print("begun", flush=True)
        time.sleep(60)
def work():
    {work}
def run(args):
    work()
    return 0
raise SystemExit(run_command(lambda: argparse.ArgumentParser(prog="dedos-x"), run))
"""


@pytest.mark.parametrize(
    "work",
    [
        # Python prints and forgets what is raised in a destructor.
        "odd = Odd(); del odd; time.sleep(60)",
        # A library that turns everything into an error of its own, and one that goes on.
        "\n    print('begun', flush=True)\n    try:\n        time.sleep(60)\n    except BaseException:\n"
        "        raise RuntimeError('in a callback')",
        "\n    print('begun', flush=True)\n    while True:\n        try:\n            time.sleep(60)\n"
        "        except BaseException:\n            pass",
        # A thread that Python would wait for at its end.
        "\n    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    print('begun', flush=True)\n    time.sleep(60)",
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whatever_a_library_makes_of_it_an_interrupt_is_130_and_no_traceback(
    work: str, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SWALLOWING.format(work=work)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, err = ended(process)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "interrupted" in err


@pytest.mark.parametrize("delay_s", [0.5, 2.0])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_export_interrupted_while_it_loads(
    tmp_path: Path, delay_s: float, number: signal.Signals
) -> None:
    pytest.importorskip("torch")
    code = (
        "import sys\nfrom dedos_deploy.cli.export import main\n"
        "print('begun', flush=True)\nraise SystemExit(main())"
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            code,
            "--preset",
            "nano",
            "--random-weights",
            "--size",
            "96x128",
            "--output",
            str(tmp_path / "x.dedos"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(delay_s)
    process.send_signal(number)
    _, err = ended(process)
    assert process.returncode == 130, err
    assert "Traceback" not in err and os.listdir(tmp_path) == []
