"""Other words while a segmenter runs: ids that stay, changes that are atomic, frames that go on."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import ConstantEngine, encode
from tiny_bundle import at, stripes

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.slots import IDS_KEPT, Thresholds


def test_names_keep_their_ids_within_a_session(segmenter: Segmenter) -> None:
    frame = stripes()
    assert segmenter.set_classes("blue,tree") == 2
    result = segmenter.segment(frame)
    assert result.classes == ("red", "green", "blue", "tree")
    assert result.class_ids == (2, 3)
    assert at(result, "blue", frame) == 2
    assert at(result, "red", frame) == result.none_id
    segmenter.set_classes("red,blue")
    result = segmenter.segment(frame)
    assert (result.vocabulary_version, result.class_ids) == (3, (0, 2))
    assert at(result, "red", frame) == 0


def test_ids_are_reused_longest_unused_first(segmenter: Segmenter) -> None:
    """A session goes on for ever, and names in use or asked for lately keep their ids."""
    frame = stripes()
    kept = [segmenter.segment(frame)]
    for turn in range(60):
        names = [f"{turn}-{index}" for index in range(10)]
        segmenter.set_classes(["red", *names])
        kept.append(segmenter.segment(frame))
        assert kept[-1].classes[0] == "red", "a name that is asked for all the time keeps its id"
        assert len(kept[-1].classes) <= IDS_KEPT
        assert kept[-1].label_map.dtype == np.uint8
        if turn >= 10:
            # Asked for ten changes ago: still there, under the same id.
            old = kept[-10]
            assert kept[-1].classes.index(f"{turn - 9}-3") == old.classes.index(f"{turn - 9}-3")
    for turn, result in enumerate(kept[1:]):
        asked = [result.classes[class_id] for class_id in result.class_ids]
        assert asked == ["red", *(f"{turn}-{index}" for index in range(10))]
        assert at(result, "red", frame) == 0
        assert result.counts.shape == (len(result.classes),)
        assert result.counts[0] == np.count_nonzero(result.label_map == 0)


def test_a_large_vocabulary_leaves_nothing_behind(segmenter: Segmenter) -> None:
    segmenter.set_classes(["red", *(f"thing {index}" for index in range(999))])
    assert segmenter.segment(stripes()).label_map.dtype == np.uint16
    segmenter.set_classes("red,blue")
    result = segmenter.segment(stripes())
    assert (result.label_map.dtype, result.none_id) == (np.uint8, 255)
    assert len(result.classes) == IDS_KEPT
    frame = stripes()
    assert result.classes[at(result, "blue", frame)] == "blue"


def slow_encoder(started: threading.Event, go: threading.Event) -> Any:
    """An encoder that takes its time for the word `slow`, and fails for `bad`."""

    def encode_slowly(words: Any, **_: object) -> NDArray[np.float32]:
        if "slow" in words:
            started.set()
            assert go.wait(30)
        if "bad" in words:
            raise BadInputError("a bad word")
        return encode(words)

    return encode_slowly


def test_frames_and_other_changes_go_on_while_words_are_encoded() -> None:
    started, go = threading.Event(), threading.Event()
    engine = ConstantEngine(np.zeros((1, 8, 4, 4), np.float32))
    segmenter = Segmenter(
        engine, slow_encoder(started, go), classes="a", thresholds=Thresholds({}, 0.5), threads=1
    )
    other = segmenter.share("b")
    versions: list[int] = []
    change = threading.Thread(target=lambda: versions.append(segmenter.set_classes("slow")))
    change.start()
    assert started.wait(30)
    frame = np.zeros((16, 16, 3), np.uint8)
    assert segmenter.segment(frame).vocabulary_version == 1
    assert other.set_classes("c,d") == 2
    assert other.segment(frame).classes == ("b", "c", "d")
    go.set()
    change.join(30)
    assert versions == [2]
    assert segmenter.classes == ("slow",)


def test_the_later_of_two_changes_wins() -> None:
    started, go = threading.Event(), threading.Event()
    engine = ConstantEngine(np.zeros((1, 8, 4, 4), np.float32))
    segmenter = Segmenter(
        engine, slow_encoder(started, go), classes="a", thresholds=Thresholds({}, 0.5), threads=1
    )
    versions: list[int] = []
    change = threading.Thread(target=lambda: versions.append(segmenter.set_classes("slow")))
    change.start()
    assert started.wait(30)
    with pytest.raises(BadInputError, match="a bad word"):
        segmenter.set_classes("bad")
    assert segmenter.set_classes("later") == 2
    go.set()
    change.join(30)
    assert segmenter.classes == ("later",)
    assert versions == [2], "the overtaken call returns the version that overtook it"
    assert segmenter.vocabulary_version == 2


class Meeting(Thresholds):
    """Thresholds that hold a change up while its table is made, until another change is there, too."""

    inside: ClassVar[dict[str, threading.Event]] = {}

    def of(self, name: str, own: float | None) -> float:
        if name in self.inside:
            self.inside[name].set()
            self.inside["second"].wait(0.3)
        return super().of(name, own)


def test_two_changes_at_once_lose_no_id_and_no_version() -> None:
    inside = {"first": threading.Event(), "second": threading.Event()}

    def encode_second_late(words: Any, **_: object) -> NDArray[np.float32]:
        if "second" in words:
            assert inside["first"].wait(20)
        return encode(words)

    engine = ConstantEngine(np.zeros((1, 4, 16, 16), np.float32))
    thresholds = Meeting({}, 0.5)
    with Segmenter(
        engine, encode_second_late, classes="start", thresholds=thresholds, threads=1
    ) as segmenter:
        Meeting.inside.update(inside)
        versions: dict[str, int] = {}

        def change(name: str) -> None:
            versions[name] = segmenter.set_classes(name)

        changing = [threading.Thread(target=change, args=(name,)) for name in inside]
        for thread in changing:
            thread.start()
        for thread in changing:
            thread.join(20)
        Meeting.inside.clear()
        assert versions == {"first": 2, "second": 3}
        assert segmenter.vocabulary_version == 3 and segmenter.classes == ("second",)
        segmenter.set_classes("second,first,start")
        assert [class_id for _, class_id, _ in segmenter.entries] == [2, 1, 0]


class SlowCount(int):
    """A counter that is slow to count, so that another thread may read it meanwhile."""

    def __new__(cls, meeting: threading.Barrier) -> SlowCount:
        made = super().__new__(cls, 0)
        made.meeting = meeting
        return made

    meeting: threading.Barrier

    def __add__(self, other: int) -> int:
        with contextlib.suppress(threading.BrokenBarrierError):
            self.meeting.wait(0.3)
        return int(self) + other


def test_two_changes_at_once_have_turns_of_their_own() -> None:
    done = threading.Event()

    def encode_second_late(words: Any, **_: object) -> NDArray[np.float32]:
        if "second" in words:
            assert done.wait(20)
        return encode(words)

    engine = ConstantEngine(np.zeros((1, 4, 16, 16), np.float32))
    with Segmenter(
        engine, encode_second_late, classes="start", thresholds=Thresholds({}, 0.5), threads=1
    ) as segmenter:
        segmenter._asked = SlowCount(threading.Barrier(2))

        def change(name: str) -> None:
            segmenter.set_classes(name)
            if name == "first":
                done.set()

        changing = [threading.Thread(target=change, args=(name,)) for name in ("first", "second")]
        for thread in changing:
            thread.start()
        for thread in changing:
            thread.join(20)
        assert (segmenter.classes, segmenter.vocabulary_version) == (("second",), 3)


def test_text_threads_and_deadlines_reach_the_encoder() -> None:
    asked: list[dict[str, Any]] = []

    def noting(words: Any, **limits: Any) -> NDArray[np.float32]:
        asked.append(limits)
        return encode(words)

    engine = ConstantEngine(np.zeros((1, 8, 4, 4), np.float32))
    segmenter = Segmenter(engine, noting, classes="a", thresholds=Thresholds({}, 0.5), threads=3)
    before_s = time.monotonic()
    segmenter.set_classes("b", timeout_s=5)
    segmenter.share("c", timeout_s=7)
    segmenter.share("c")
    assert [limits["threads"] for limits in asked] == [3, 1, 1, 1]
    assert [limits["deadline_s"] is None for limits in asked] == [True, False, False, True]
    assert before_s + 5 <= asked[1]["deadline_s"] <= time.monotonic() + 5
    assert asked[2]["deadline_s"] > asked[1]["deadline_s"]


def test_a_failed_change_keeps_the_old_classes(segmenter: Segmenter) -> None:
    with pytest.raises(BadInputError, match="'red' occurs twice"):
        segmenter.set_classes("red,green,red")
    with pytest.raises(BadInputError, match="has 242 tokens, the text tower takes 32"):
        segmenter.set_classes("red," + "verylong" * 30)
    assert segmenter.classes == ("red", "green", "blue")
    assert segmenter.segment(stripes()).vocabulary_version == 1


def test_class_change_from_another_thread_falls_between_frames(segmenter: Segmenter) -> None:
    """Every result is wholly of one vocabulary: the one its version was set with."""
    lists = ("red,green", "blue,red", "green,blue,red", "red")
    versions: dict[int, str] = {segmenter.set_classes(lists[0]): lists[0]}
    enough = threading.Event()

    def change() -> None:
        for turn in itertools.count():
            if enough.is_set():
                return
            classes = lists[turn % len(lists)]
            versions[segmenter.set_classes(classes)] = classes
            # Without a pause the frames' thread gets the interpreter once in 5 ms at most.
            time.sleep(0.001)

    frame = stripes()
    # The first frame imports OpenCV, in a thousand small reads.
    results = [segmenter.segment(frame)]
    seen = {results[0].vocabulary_version}
    thread = threading.Thread(target=change)
    thread.start()
    deadline = time.monotonic() + 30
    try:
        while len(seen) < 20:
            assert time.monotonic() < deadline, "frames and class changes never alternated"
            results.append(segmenter.segment(frame))
            seen.add(results[-1].vocabulary_version)
    finally:
        enough.set()
        thread.join()
    for result in results:
        asked = versions[result.vocabulary_version].split(",")
        assert [result.classes[class_id] for class_id in result.class_ids] == asked
        for colour in ("red", "green", "blue"):
            label = at(result, colour, frame)
            expected = result.classes.index(colour) if colour in asked else result.none_id
            assert label == expected
