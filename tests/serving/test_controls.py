"""Colours that stay with their words, and recordings that hold what they say."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import Segmenter, open_source
from dedos_deploy.runtime.flow.lanes import SinkLane
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.serving.controls import Controls
from dedos_deploy.runtime.serving.recordings import Recordings, _Running
from dedos_deploy.runtime.sinks.contract import SinkOptions
from dedos_deploy.runtime.sinks.palette import css_colour, word_colour_bgr
from dedos_deploy.runtime.sinks.video import GrowingVideo


def _result(*names: str) -> Segmentation:
    """Return a result in which the first name has all pixels."""
    counts = np.zeros(len(names), np.int64)
    counts[0] = 32 * 32
    return Segmentation(
        label_map=np.zeros((32, 32), np.uint8),
        confidence=np.full((32, 32), 255, np.uint8),
        classes=names,
        class_ids=tuple(range(len(names))),
        counts=counts,
        none_id=255,
        vocabulary_version=1,
        timestamp_s=0.0,
        latency_ms={},
    )


def _frame(number: int = 0) -> Frame:
    return Frame(np.zeros((32, 32, 3), np.uint8), number, number / 10, "test", str(number))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.fixture
def controls(bundle_folder: Path, tmp_path: Path) -> Iterator[Controls]:
    with Segmenter.load(bundle_folder, classes="lamp", threads=1) as shared:
        views = {"gate": shared.share("red,green")}
        with Controls(shared, views, record_to=tmp_path) as opened:
            yield opened


def _painted_bgr(controls: Controls, result: Segmentation) -> list[int]:
    picture = controls.hub._painted("gate", _frame(), result, 1.0)
    return [int(part) for part in picture[16, 16]]


def test_a_colour_belongs_to_a_word_and_not_to_its_number(controls: Controls) -> None:
    controls.set_colour("gate", 0, "#102030")
    assert _painted_bgr(controls, _result("red", "green")) == [0x30, 0x20, 0x10]
    # A result in which the number stands for another word.
    assert _painted_bgr(controls, _result("sky", "red")) == list(word_colour_bgr("sky"))
    assert _painted_bgr(controls, _result("sky")) == list(word_colour_bgr("sky"))
    controls.set_colour("gate", 1, "#405060")
    assert _painted_bgr(controls, _result("green", "red")) == [0x60, 0x50, 0x40]


def test_the_page_has_the_colours_of_the_pictures(controls: Controls) -> None:
    controls.set_classes("gate", "lake,road#123456@0.2")
    lake, road = controls.classes("gate")["classes"]
    assert lake["colour"] == css_colour(word_colour_bgr("lake"))
    assert (road["colour"], road["entry"]) == ("#123456", "road@0.2#123456")
    result = controls.view("gate").segment(_frame().frame_bgr)
    assert [css_colour(colour) for colour in result.colours_bgr] == [
        css_colour(word_colour_bgr("red")),
        css_colour(word_colour_bgr("green")),
        lake["colour"],
        road["colour"],
    ]


def test_colours_of_words_that_went_are_forgotten(controls: Controls) -> None:
    for number in range(20):
        controls.set_classes("gate", f"word{number}")
        (entry,) = controls.classes("gate")["classes"]
        controls.set_colour("gate", entry["id"], "#102030")
        assert controls.classes("gate")["classes"][0]["colour"] == "#102030"
    assert len(controls._colours["gate"]) == 1


def test_a_recording_without_a_frame_leaves_no_file(tmp_path: Path) -> None:
    with Recordings(tmp_path) as recordings:
        for _ in range(20):
            assert recordings.begin("gate").frames == 0
            ended = recordings.end("gate")
            assert (ended.file, ended.frames) == (None, 0)
        recordings.begin("yard")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_recording_says_how_many_frames_it_holds(tmp_path: Path, count: int) -> None:
    with Recordings(tmp_path) as recordings:
        began = recordings.begin("back yard")
        assert re.fullmatch(r"back_yard-\d{8}T\d{6}\.\d+Z\.mp4", Path(str(began.file)).name)
        for number in range(count):
            recordings.put("back yard", _frame(number), _result("red"))
            _wait_until(lambda n=number: (recordings.state("back yard") or {})["frames"] > n)
        ended = recordings.end("back yard")
    assert ended.file == began.file and ended.frames == count
    with open_source(str(ended.file)) as source:
        assert len(list(source)) == count


def test_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no folder for recordings; start with --record-to"):
        Recordings(None).begin("gate")
    with pytest.raises(BadInputError, match="does not exist; create it"):
        Recordings(tmp_path / "none")


class _Stuck(GrowingVideo):
    """A file on a disk that does not come back until it is told to."""

    def __init__(self, path: Path, comes_back: threading.Event) -> None:
        super().__init__(path, SinkOptions(live=True))
        self.comes_back = comes_back
        self.is_closed = False

    def write(self, frame: Frame, result: Segmentation) -> None:
        self.comes_back.wait(30)
        assert not self.is_closed, "closed under a write"
        super().write(frame, result)

    def close(self) -> None:
        self.is_closed = True
        super().close()


def test_a_file_is_not_closed_under_a_write(tmp_path: Path) -> None:
    comes_back, path = threading.Event(), tmp_path / "stuck.mp4"
    sink = _Stuck(path, comes_back)
    recordings = Recordings(tmp_path)
    lane = SinkLane(sink, when_full="drop_oldest")
    recordings._running["gate"] = _Running(path, sink, lane)
    recordings.put("gate", _frame(), _result("red"))
    ended = recordings.end("gate")
    assert not sink.is_closed and (ended.file, ended.frames) == (str(path), 0)
    comes_back.set()
    assert lane.finish(30)
    recordings.close()
    assert sink.is_closed and lane.error is None
    with open_source(str(path)) as source:
        assert len(list(source)) == 1
