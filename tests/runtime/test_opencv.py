"""Which OpenCV is in use: any from 4.6 on, pip's or the system's, and a sentence where it cannot be."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from dedos_deploy.cli import bench
from dedos_deploy.cli._main import run_command
from dedos_deploy.cli.run import main
from dedos_deploy.errors import OpenCvError, SourceError
from dedos_deploy.runtime import Segmenter, doctor, open_source
from dedos_deploy.runtime.findings import Machine
from dedos_deploy.runtime.opencv import FFMPEG_OPTIONS, open_capture, opencvs, require_opencv
from dedos_deploy.runtime.sources.interlaced import CLIP, can_filter, has_interlaced

SYSTEM_PYTHON = "/usr/bin/python3"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh_check() -> Iterator[None]:
    require_opencv.cache_clear()
    yield
    require_opencv.cache_clear()


@pytest.fixture
def another(tmp_path: Path) -> Path:
    """A folder with another OpenCV, which cannot be loaded."""
    (tmp_path / "cv2.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file')"
    )
    return tmp_path


@pytest.mark.parametrize("version", ["4.6.0", "4.8.0-dev", "4.10.0", "5.0.0"])
def test_every_version_from_4_6_on_will_do(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "__version__", version)
    require_opencv()


@pytest.mark.parametrize("version", ["3.4.18", "4.5.4", None])
def test_an_older_one_is_refused_in_a_sentence(
    version: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if version is None:
        monkeypatch.delattr(cv2, "__version__")
    else:
        monkeypatch.setattr(cv2, "__version__", version)
    for door in (lambda: open_source("scene:street"), lambda: Segmenter.load(classes="road")):
        with pytest.raises(OpenCvError, match="too old or not whole, 4.6 and newer"):
            door()
    assert main(["--source", "scene:street", "--classes", "road", "--output", "null"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(opencvs()[0]) in said and (version or "no version") in said
    (finding,) = doctor._opencv(Machine())
    assert finding.verdict == "bad" and finding.advice == "run: pip install opencv-python"


def test_the_reason_is_the_same_whoever_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cv2").mkdir()
    # As OpenCV's own package begins.
    (tmp_path / "cv2" / "__init__.py").write_text(
        "import sys\n"
        "if hasattr(sys, 'OpenCV_LOADER'):\n"
        "    print(sys.path)\n"
        "    raise ImportError('ERROR: recursion is detected during loading')\n"
        "sys.OpenCV_LOADER = True\n"
        "raise ImportError('libGL.so.1: cannot open shared object file')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2")
    for _ in range(2):
        with pytest.raises(OpenCvError, match=r"cannot be loaded \(libGL.so.1: cannot open"):
            require_opencv()
    assert capsys.readouterr().out == ""


def test_without_opencv_the_doctor_names_it_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    findings = doctor.examine()
    assert [finding.topic for finding in findings if finding.verdict == "bad"] == [
        "label a frame",
        "opencv",
    ]
    assert not doctor.usable(findings, "cpu")


def test_commands_that_did_not_ask_say_it_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert bench.main(["frame", "--bundle", "demo"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("dedos-bench: error: OpenCV, the module cv2, is not installed; run:")


def test_an_import_that_fails_for_another_reason_stays_a_bug() -> None:
    def fails(_: argparse.Namespace) -> int:
        raise ImportError("no module of ours")

    with pytest.raises(ImportError, match="no module of ours"):
        run_command(argparse.ArgumentParser, fails, [])


def test_none_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(OpenCvError, match="is not installed; run: pip install opencv-python"):
        open_source("scene:street")


def test_one_that_misses_a_library_is_said(another: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cv2")
    monkeypatch.syspath_prepend(another)
    with pytest.raises(OpenCvError, match="libGL.so.1: cannot open.*apt install libgl1") as caught:
        require_opencv()
    assert str(another / "cv2.py") in str(caught.value)


def test_one_that_was_made_for_numpy_1_is_said_without_its_page(tmp_path: Path) -> None:
    """Debian's, which is in use by the system's Python, beside the NumPy of the tests."""
    if int(np.__version__.split(".", maxsplit=1)[0]) < 2:
        pytest.skip("needs NumPy 2")
    spec = importlib.util.find_spec("numpy")
    assert spec is not None and spec.origin is not None
    for folder in ("numpy", "numpy.libs"):
        (tmp_path / folder).symlink_to(Path(spec.origin).parents[1] / folder)
    program = f"""
import sys
if sys.version_info[:2] != {sys.version_info[:2]} or not __import__("importlib.util").util.find_spec("cv2"):
    sys.exit("skip")
sys.path.insert(0, {str(tmp_path)!r})
from dedos_deploy.errors import OpenCvError
from dedos_deploy.runtime import open_source
try:
    open_source("gst:videotestsrc")
except OpenCvError as error:
    print(error)
"""
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    if "skip" in done.stderr:
        pytest.skip(f"needs python3-opencv for {SYSTEM_PYTHON}, of the version of this Python")
    assert done.stderr == ""
    assert f"was made for another NumPy than {np.__version__}" in done.stdout
    assert "/usr/lib/python3/dist-packages/cv2" in done.stdout
    assert "run: pip install 'numpy<2'" in done.stdout


def test_an_opencv_that_pips_hides_is_named(another: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whose = next(name for name in doctor.OPENCV_OF_PIP if doctor.version_of(name))
    monkeypatch.setattr("dedos_deploy.runtime.sources.gstreamer.has_gstreamer", lambda: False)
    with pytest.raises(SourceError, match="python3-opencv"):
        open_source("gst:videotestsrc")
    monkeypatch.setattr(sys, "path", [*sys.path, str(another)])
    remedy = f"pip's hides the system's at {another / 'cv2.py'}: run pip uninstall {whose}"
    with pytest.raises(SourceError, match=remedy):
        open_source("gst:videotestsrc")
    findings = {finding.topic: finding for finding in doctor._opencv(Machine())}
    assert findings["opencv"].found == f"{cv2.__version__}, {whose} of pip, {opencvs()[0]}"
    assert remedy in findings["opencv gstreamer"].advice


def test_threads_that_ask_at_once_leave_stderr_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(contextlib.redirect_stderr[io.StringIO]):
        def __enter__(self) -> io.StringIO:
            found = super().__enter__()
            entered.append(self)
            # The first one waits for the second, which leaves last.
            time.sleep(0.1 * len(entered))
            return found

    entered: list[Slow] = []
    before = sys.stderr
    monkeypatch.setattr(contextlib, "redirect_stderr", Slow)
    require_opencv.cache_clear()
    threads = [threading.Thread(target=require_opencv) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = sys.stderr
    monkeypatch.setattr(sys, "stderr", before)
    assert after is before


def test_options_for_ffmpeg_reach_one_capture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the environment of the process, where openings on other threads would find them."""
    monkeypatch.delenv(FFMPEG_OPTIONS, raising=False)
    begun: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
    go_on = {name: threading.Event() for name in ("a", "b", "filtered", "c")}

    def opens(address: str, backend: int, settings: object) -> object:
        begun.put((address, os.environ.get(FFMPEG_OPTIONS)))
        assert go_on[address].wait(10)
        return object()

    monkeypatch.setattr(cv2, "VideoCapture", opens)
    with ThreadPoolExecutor(4) as pool:
        plain = [pool.submit(open_capture, name) for name in ("a", "b")]
        assert {begun.get(timeout=10) for _ in plain} == {("a", None), ("b", None)}
        pool.submit(open_capture, "filtered", options={"input_format": "lavfi"})
        with pytest.raises(queue.Empty):
            begun.get(timeout=0.05)
        go_on["a"].set(), go_on["b"].set()
        assert begun.get(timeout=10) == ("filtered", "input_format;lavfi")
        pool.submit(open_capture, "c")
        with pytest.raises(queue.Empty):
            begun.get(timeout=0.05)
        go_on["filtered"].set(), go_on["c"].set()
        assert begun.get(timeout=10) == ("c", None)


def test_videos_opened_at_once_do_not_get_each_others_options(tmp_path: Path) -> None:
    path, clip = tmp_path / "plain.avi", tmp_path / "interlaced.m2v"
    clip.write_bytes(CLIP)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (32, 24))
    for _ in range(3):
        writer.write(np.zeros((24, 32, 3), np.uint8))
    writer.release()

    def is_open(number: int) -> bool:
        if number % 2:
            return has_interlaced(str(clip))
        capture = open_capture(str(path))
        opened = capture.isOpened()
        capture.release()
        return opened

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(is_open, range(40)))
    assert all(found[::2])
    # A build without FFmpeg's filters finds none.
    assert all(found[1::2]) or not can_filter()
