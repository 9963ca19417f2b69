"""Kills and forks: what a killed run left goes with the next, and a forked child never hangs."""

from __future__ import annotations

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

sys.path += [str(Path(__file__).parents[1] / "runtime")]

from run_process import start, wait_for_lines  # noqa: E402
from tiny_bundle import stripes, write_tiny_bundle  # noqa: E402

from dedos_deploy.bundle import BundleWriter  # noqa: E402
from dedos_deploy.errors import EngineError  # noqa: E402
from dedos_deploy.files import Temporary, sweep, write_atomically  # noqa: E402
from dedos_deploy.runtime import Segmenter, open_sink  # noqa: E402
from dedos_deploy.runtime.flow.lanes import SinkLane  # noqa: E402


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


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


def test_a_folder_that_is_swept_before_it_is_opened_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    mkdir = Path.mkdir

    def swept(path: Path, *given: object, **named: object) -> None:
        mkdir(path, *given, **named)  # type: ignore[arg-type]
        made.append(path)
        if len(made) == 1:
            sweep(tmp_path)

    monkeypatch.setattr(Path, "mkdir", swept)
    staging = Temporary(tmp_path / "bundle", folder=True)
    assert made[0] != made[1] == staging.path and not made[0].exists()
    staging.publish()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


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
    arguments = [
        "--source",
        "scene:hall?frames=100000&size=48x64",
        "--classes",
        "red",
        "--threads",
        "1",
        "--output",
        video,
        "--output",
        lines,
        "--overwrite",
    ]
    process = start(tiny, *arguments)
    wait_for_lines(process, lines, 4)
    process.kill()
    process.communicate()
    assert [name for name in os.listdir(tmp_path) if ".tmp" in name]
    again = start(tiny, *arguments, "--max-frames", "3")
    _out, err = again.communicate(timeout=60)
    assert (again.returncode, err) == (0, "")
    assert sorted(os.listdir(tmp_path)) == ["o.jsonl", "o.mp4"]
