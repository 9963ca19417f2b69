"""Signals, kills and forks: a run ends in two seconds whatever hangs, and leaves nothing half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "runtime")]

from hanging_bundle import write_hanging_bundle  # noqa: E402
from run_process import start  # noqa: E402
from tiny_bundle import stripes, write_tiny_bundle  # noqa: E402

from dedos_deploy.bundle import BundleWriter  # noqa: E402
from dedos_deploy.errors import EngineError  # noqa: E402
from dedos_deploy.files import Temporary, sweep, write_atomically  # noqa: E402
from dedos_deploy.interrupts import LIMIT_S  # noqa: E402
from dedos_deploy.runtime import Segmenter, open_sink  # noqa: E402
from dedos_deploy.runtime.sink_lane import SinkLane  # noqa: E402

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
                sys.executable, "-c",
                "from dedos_deploy.cli.run import main; raise SystemExit(main())",
                "--bundle", str(bundle), "--classes", "red", "--watchdog", "1", "--threads", "1",
                *KINDS[kind],
            ],
            stdout=subprocess.PIPE, stderr=stderr, text=True,
        )  # fmt: skip
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
import json, sys, threading, time
from dedos_deploy.cli.run import main
from dedos_deploy.runtime import sinks, sources, Segmenter
for_ever = lambda *_: threading.Event().wait(600)
{patch}
print("begun", file=sys.stderr, flush=True)
raise SystemExit(main())
"""
HANGING = {
    "a sink's write": "from dedos_deploy.runtime.file_sinks import LastPicture\n"
    "LastPicture.write = for_ever",
    "a sink's close": "from dedos_deploy.runtime.file_sinks import LastPicture\n"
    "LastPicture.close = for_ever",
    "a source's read": "from dedos_deploy.runtime.stages import ObservedSource\n"
    "import dedos_deploy.runtime.bars_source as b\n"
    "first = b.BarsSource.read\n"
    "def read(self, timeout_s, seen=[0]):\n"
    "    seen[0] += 1\n"
    "    return first(self, timeout_s) if seen[0] < 12 else for_ever()\n"
    "b.BarsSource.read = read",
    "a source's close": "import dedos_deploy.runtime.bars_source as b\nb.BarsSource.close = for_ever",
    "the engine's close": "Segmenter.close = for_ever",
}


@pytest.mark.parametrize("what", HANGING)
def test_whatever_hangs_the_other_outputs_are_completed(
    tiny: Path, tmp_path: Path, what: str
) -> None:
    code = SCRIPT.format(patch=HANGING[what])
    lines = tmp_path / "o.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--bundle", str(tiny), "--classes", "red", "--threads", "1",
         "--source", "test:bars?fps=20&size=48x64", "--output", str(tmp_path / "o.png"),
         "--output", str(tmp_path / "o.avi"), "--output", str(lines)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
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
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, err = ended(process)
    assert process.returncode == 130
    assert err == (
        "dedos-x: interrupted; did not end within 2 s and is left behind: what was being loaded\n"
    )
    assert os.listdir(tmp_path) == []


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
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
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
        [sys.executable, "-c", code, "--preset", "nano", "--random-weights", "--size", "96x128",
         "--output", str(tmp_path / "x.dedos")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    time.sleep(delay_s)
    process.send_signal(number)
    _, err = ended(process)
    assert process.returncode == 130, err
    assert "Traceback" not in err and os.listdir(tmp_path) == []


# Killed


KILLED = """
import sys, time
from pathlib import Path
from dedos_deploy.bundle import BundleWriter
from dedos_deploy.files import Temporary, replacing
from dedos_deploy.runtime import SinkOptions, open_sink
folder = Path(sys.argv[1])
writer = BundleWriter(folder / "x.dedos").__enter__()
writer.add_bytes("model.onnx", b"half")
video = open_sink(str(folder / "o.mp4"))
live = open_sink(str(folder / "live.mp4"), SinkOptions(live=True))
state = replacing(folder / "state.safetensors")
state.__enter__()
print("begun", flush=True)
time.sleep(60)
"""


def start_writing(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


WRITERS: dict[str, Callable[[Path], None]] = {
    "bundle": lambda folder: (
        BundleWriter(folder / "y.dedos").__enter__().__exit__(None, None, None)
    ),
    "video": lambda folder: open_sink(str(folder / "p.avi")).close(),
    "lines": lambda folder: open_sink(str(folder / "p.jsonl")).close(),
}


@pytest.mark.parametrize("kind", ["bundle", "video", "lines"])
def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path, kind: str) -> None:
    process = start_writing(tmp_path)
    process.kill()
    process.communicate()
    left = [name for name in os.listdir(tmp_path) if ".tmp" in name]
    assert len(left) == 4
    WRITERS[kind](tmp_path)
    assert [name for name in os.listdir(tmp_path) if ".tmp" in name] == []


def test_what_another_run_is_writing_stays(tmp_path: Path) -> None:
    process = start_writing(tmp_path)
    try:
        before = sorted(os.listdir(tmp_path))
        WRITERS["video"](tmp_path)
        write_atomically(tmp_path / "a.json", b"{}")
        assert sorted([*before, "a.json"]) == sorted(os.listdir(tmp_path))
    finally:
        process.kill()
        process.communicate()


def test_only_what_is_certainly_ours_is_removed(tmp_path: Path) -> None:
    kept = [".o.mp4.tmp", ".o.0123abcd.tmp.mp4", "o.0123abcd.dedos.tmp", ".dedos.tmp"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / ".link.0123abcd.dedos.tmp").symlink_to(target)
    (tmp_path / ".o.0123abcd.dedos.tmp").write_text("left")
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "target", ".link.0123abcd.dedos.tmp"])


def test_many_who_sweep_and_write_lose_nothing(tmp_path: Path) -> None:
    """A temporary file is locked a moment after it was made; who sweeps in between takes none away."""
    errors: list[Exception] = []

    def write(number: int) -> None:
        try:
            for turn in range(100):
                temporary = Temporary(tmp_path / f"{number}")
                os.write(temporary.descriptor, b"whole")
                sweep(tmp_path)
                temporary.publish()
                assert (tmp_path / f"{number}").read_bytes() == b"whole", turn
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors and sorted(os.listdir(tmp_path)) == ["0", "1", "2", "3"]


# Forked


def forked(work: Callable[[], object], *, code: int = 3) -> tuple[int, str]:
    """Return the exit status of a child that does the work and ends as Python does, and its error."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(20)
        os.close(reading)
        try:
            work()
        except EngineError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_and_does_not_hang(tiny: Path, busy: bool) -> None:
    stop = threading.Event()
    with Segmenter.load(tiny, classes="red", threads=2) as segmenter:
        view = segmenter.share("blue")

        def label() -> None:
            while not stop.is_set():
                segmenter.segment(np.zeros((400, 600, 3), np.uint8))

        labelling = threading.Thread(target=label)
        if busy:
            labelling.start()
            time.sleep(0.2)
        try:
            for use in (
                lambda: segmenter.segment(stripes()),
                lambda: view.segment(stripes()),
                lambda: segmenter.set_classes("green"),
                lambda: segmenter.share("green"),
                segmenter.close,
            ):
                status, said = forked(use)
                assert status == 3
                assert "was made in another process; make one after the fork" in said
        finally:
            stop.set()
            if busy:
                labelling.join()
        assert segmenter.segment(stripes()).classes == ("red",)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_may_load_one_of_its_own_and_ends_as_any_process(tiny: Path) -> None:
    code = f"""
import os, signal, sys
import numpy as np
from dedos_deploy.runtime import Segmenter
segmenter = Segmenter.load({str(tiny)!r}, classes="red", threads=2)
if (child := os.fork()) == 0:
    signal.alarm(30)
    with Segmenter.load({str(tiny)!r}, classes="red", threads=1) as own:
        own.segment(np.zeros((60, 90, 3), np.uint8))
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=100)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_an_inherited_lane_is_refused(tmp_path: Path) -> None:
    with open_sink(str(tmp_path / "o.jsonl")) as sink:
        lane = SinkLane(sink, when_full="wait")
        status, said = forked(lane.close)
        assert status == 3 and "this SinkLane was made in another process" in said
        lane.close()


def test_the_same_run_starts_again_after_a_kill(tiny: Path, tmp_path: Path) -> None:
    video, lines = tmp_path / "o.mp4", tmp_path / "o.jsonl"
    arguments = ["--source", "scene:hall?frames=100000&size=48x64", "--classes", "red",
                 "--threads", "1", "--output", video, "--output", lines, "--overwrite"]  # fmt: skip
    process = start(tiny, *arguments)
    wait_for(lambda: lines.exists() and lines.read_text().count("\n") > 3, process)
    process.kill()
    process.communicate()
    assert [name for name in os.listdir(tmp_path) if ".tmp" in name]
    again = start(tiny, *arguments, "--max-frames", "3")
    out, err = again.communicate(timeout=60)
    assert (again.returncode, err) == (0, "")
    assert sorted(os.listdir(tmp_path)) == ["o.jsonl", "o.mp4"]
