"""Frames of cameras with the same words in one run: each row as it is alone, and nobody waits."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import RecordingSink, SyntheticSource, encode
from tiny_bundle import stripes, write_tiny_bundle

from dedos_deploy.bundle import Bundle
from dedos_deploy.cli import run as run_command
from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime import Engine, Segmentation, Segmenter, SegmenterView
from dedos_deploy.runtime.engines.batched import BatchedEngine
from dedos_deploy.runtime.engines.contract import EngineOptions
from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine
from dedos_deploy.runtime.engines.opening import open_engine
from dedos_deploy.runtime.flow import Camera, Run, RunOptions
from dedos_deploy.runtime.slots import Thresholds
from dedos_deploy.spec import GraphSpec

WORDS = "red,green,blue"


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with graphs for one, two and four frames per run."""
    return write_tiny_bundle(tmp_path_factory.mktemp("held") / "tiny", batches=(2, 4))


def pictures(count: int) -> list[NDArray[np.uint8]]:
    """Frames of different sizes and colours."""
    return [
        np.roll(stripes(40 + 9 * n, 70 + 5 * n), 11 * n, axis=1) // (n + 1) for n in range(count)
    ]


def same(found: Any, wanted: Segmentation) -> None:
    assert isinstance(found, Segmentation), found
    for name in ("label_map", "confidence", "counts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert (found.classes, found.vocabulary_version) == (wanted.classes, wanted.vocabulary_version)


# The engine


class Rows(Engine):
    """Scores of a frame are its first pixel / 255 for the first word, and half of that for others.

    log: gets the number of frames of every run; broken: first pixels whose scores are no numbers.
    """

    def __init__(self, batch: int, log: list[int], broken: tuple[int, ...] = ()) -> None:
        self.spec = GraphSpec(height=16, width=16, text_width=4, batch=batch)
        self.log, self.broken = log, broken
        self.before: Callable[[int], None] = lambda batch: None
        self.is_closed = False

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        image = inputs["image"]
        assert image.shape == self.spec.image.shape
        self.log.append(len(image))
        self.before(len(image))
        scores = np.empty((len(image), len(inputs["valid"]), 4, 4), np.float32)
        for row, picture in zip(scores, image, strict=True):
            first = int(picture[0, 0, 0])
            row[:] = np.nan if first in self.broken else first / 510
            row[0] *= 2
        return {"scores": scores}

    def close(self) -> None:
        self.is_closed = True


class OnGpu:
    """A frame that only engines on a GPU can read."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, **_: object) -> object:
        raise AssertionError("it is not read here")


class Stand:
    """A Segmenter on such engines; `log` has the frames of every run."""

    def __init__(self, *batches: int, broken: tuple[int, ...] = ()) -> None:
        self.log: list[int] = []
        self.engines = [Rows(batch, self.log, broken) for batch in batches]
        self.segmenter = Segmenter(
            BatchedEngine(self.engines),
            encode,
            classes="a",
            thresholds=Thresholds({}, 0.0),
            threads=1,
        )

    def view(self, words: str = "a,bb") -> SegmenterView:
        return self.segmenter.share(words)

    def label(self, *asked: tuple[object, int]) -> list[Any]:
        frames = [(view, np.full((8, 8, 3), value, np.uint8), 1.0) for view, value in asked]
        return list(self.segmenter.together.segment(frames))


def test_rows_are_what_they_are_alone(held: Path) -> None:
    with Segmenter.load(held, classes=WORDS, threads=1, batch=4) as shared:
        assert shared.together.batches == (1, 2, 4)
        views = [shared.share(WORDS) for _ in range(7)]
        frames = [(view, frame, 5.0) for view, frame in zip(views, pictures(7), strict=True)]
        for found, (view, frame, _) in zip(shared.together.segment(frames), frames, strict=True):
            same(found, view.segment(frame))
            assert isinstance(found, Segmentation) and found.timestamp_s == 5.0
            assert set(found.latency_ms) == {"pre", "engine", "post"}


def test_stable_labels_have_the_past_of_their_camera_in_shared_runs(held: Path) -> None:
    moving = [np.roll(stripes(96, 128), 5 * n, axis=1) for n in range(4)]
    with (
        Segmenter.load(held, classes=WORDS, threads=1, batch=2, stable=True) as shared,
        Segmenter.load(held, classes=WORDS, threads=1, stable=True) as apart,
    ):
        together, alone = ([one.share(WORDS) for _ in range(2)] for one in (shared, apart))
        for frame in moving:
            # The second camera stands still, and its past is another one.
            seen = (frame, moving[0] // 2)
            asked = [(view, picture, 0.0) for view, picture in zip(together, seen, strict=True)]
            for found, view, picture in zip(
                shared.together.segment(asked), alone, seen, strict=True
            ):
                same(found, view.segment(picture))


def test_half_precision_scores_are_rows_too(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "half", half=True, batches=(2,))
    with Segmenter.load(bundle, classes=WORDS, threads=1, batch=2) as shared:
        frames = [(shared.share(WORDS), frame, 0.0) for frame in pictures(2)]
        for found, (view, frame, _) in zip(shared.together.segment(frames), frames, strict=True):
            same(found, view.segment(frame))


def test_as_many_share_a_run_as_a_graph_takes() -> None:
    stand = Stand(1, 2, 4)
    views = [stand.view() for _ in range(7)]
    results = stand.label(*((view, 10 + n) for n, view in enumerate(views)))
    assert stand.log == [4, 2, 1]
    assert [result.confidence[0, 0] for result in results] == [10 + n for n in range(7)]


def test_other_words_never_share() -> None:
    stand = Stand(1, 2)
    first, other, third = stand.view("a,bb"), stand.view("bb,a"), stand.view("a,bb@0.9#ff0000")
    results = stand.label((first, 50), (other, 60), (third, 70))
    assert stand.log == [2, 1]
    assert [result.confidence[0, 0] for result in results] == [50, 60, 70]
    # Thresholds, colours and ids are the frame's own.
    assert results[2].colours_bgr[1] == (0, 0, 255) != results[0].colours_bgr[1]


def test_words_that_change_take_their_camera_out_of_the_run() -> None:
    stand = Stand(1, 2)
    one, two = stand.view(), stand.view()
    words_of = stand.segmenter.together.words_of
    assert words_of(one) == words_of(two) is not None
    two.set_classes("a,bb,ccc")
    assert words_of(one) != words_of(two)
    results = stand.label((one, 5), (two, 6))
    assert stand.log == [1, 1] and [len(result.classes) for result in results] == [2, 3]
    one.set_classes("a,bb,ccc")
    stand.label((one, 5), (two, 6))
    assert stand.log == [1, 1, 2]


def test_a_frame_that_fails_takes_nobody_with_it() -> None:
    stand = Stand(1, 2, 4, broken=(13,))
    views = [stand.view() for _ in range(4)]
    frames: list[tuple[object, Any, float]] = [
        (view, np.full((8, 8, 3), 10 + n, np.uint8), 0.0) for n, view in enumerate(views)
    ]
    results = stand.segmenter.together.segment(frames)
    assert stand.log == [4] and isinstance(results[3], EngineError)
    assert [type(result) for result in results[:3]] == [Segmentation] * 3
    frames[1] = (views[1], np.zeros((8, 8), np.float32), 0.0)
    results = stand.segmenter.together.segment(frames[:3])
    assert isinstance(results[1], BadInputError)
    assert [int(results[n].confidence[0, 0]) for n in (0, 2)] == [10, 12]  # type: ignore[union-attr]
    frames[2] = (views[2], OnGpu(), 0.0)
    results = stand.segmenter.together.segment([frames[0], frames[2]])
    assert stand.log[-1] == 2 and "this frame lies on a GPU" in str(results[1])
    assert int(results[0].confidence[0, 0]) == 10  # type: ignore[union-attr]
    stranger = Stand(1).view()
    (refused,) = stand.label((stranger, 1))
    assert isinstance(refused, BadInputError) and "make them with `share`" in str(refused)
    assert stand.segmenter.together.words_of(stranger) is None


def test_a_run_that_fails_is_the_error_of_its_frames() -> None:
    stand = Stand(1, 2)

    def fail(batch: int) -> None:
        raise EngineError("out of memory")

    stand.engines[1].before = fail
    results = stand.label(*((stand.view(), n) for n in range(3)))
    assert [type(result) for result in results] == [EngineError, EngineError, Segmentation]


def test_all_engines_are_closed() -> None:
    stand = Stand(1, 2, 4)
    stand.segmenter.close()
    assert all(engine.is_closed for engine in stand.engines)


# The bundle


def test_a_bundle_says_which_batches_it_holds(held: Path, bundle_folder: Path) -> None:
    with Bundle.open(held) as bundle:
        assert bundle.batches == (1, 2, 4)
        assert bundle.graph().path.name == "model.onnx" and bundle.graph() == bundle.graph(1)
        four = bundle.graph(4)
        assert (four.path.name, four.spec.batch) == ("model.batch4.onnx", 4)
        assert four.sha256 == bundle.manifest.files["model.batch4.onnx"]
        with pytest.raises(BadInputError, match="no graph for 3 frames per run, only for 1, 2, 4;"):
            bundle.graph(3)
        with open_engine(bundle, options=EngineOptions(threads=1, batch=2)) as engine:
            assert sorted(engine.run_labellers(threads=1)) == [2]
            assert engine.facts()["batches"] == [1, 2]
        with open_engine(bundle, options=EngineOptions(threads=1)) as engine:
            assert not engine.run_labellers(threads=1)
    with Bundle.open(bundle_folder) as bundle:
        assert bundle.batches == (1,)
        with pytest.raises(BadInputError, match="2 frames per run, only for 1; .* --batches"):
            open_engine(bundle, options=EngineOptions(batch=2))


def test_a_graph_that_is_not_what_its_name_says_is_named(tmp_path: Path) -> None:
    model = (write_tiny_bundle(tmp_path / "one") / "model.onnx").read_bytes()
    wrong = write_tiny_bundle(tmp_path / "wrong", files={"model.batch2.onnx": model})
    with pytest.raises(EngineError, match=r"'image' of model\.batch2\.onnx .* promises uint8 \[2,"):
        Segmenter.load(wrong, classes=WORDS, batch=2)


# The flow


class Colours(SyntheticSource):
    """Frames whose pixels all hold one number."""

    def __init__(self, value: int, count: int | None = None, **options: Any) -> None:
        super().__init__(count, **options)
        self.value = value

    def read(self, timeout_s: float) -> Any:
        item = super().read(timeout_s)
        if hasattr(item, "pixels"):
            item.pixels[:] = self.value
        return item


def camera(
    stand: Stand, name: str, source: SyntheticSource, words: str = "a,bb"
) -> tuple[Camera, RecordingSink]:
    sink = RecordingSink()
    view = stand.view(words)
    return Camera(name, lambda: source, view, [sink], live=source.live), sink


def values(sink: RecordingSink) -> set[int]:
    return {int(result.confidence[0, 0]) for result in sink.results}


def test_cameras_with_the_same_words_share_runs() -> None:
    stand = Stand(1, 2, 4)
    stand.engines[0].before = lambda _: time.sleep(0.02)  # until all of them have a frame
    made = [camera(stand, f"c{n}", Colours(20 * n + 20, 12)) for n in range(4)]
    other, seen = camera(stand, "other", Colours(150, 12), "bb,a")
    run = Run([*(one for one, _ in made), other], together=stand.segmenter.together)
    run.run()
    assert run.outcome == "end"
    for number, (_, sink) in enumerate(made):
        assert sink.frame_ids == list(range(12)) and values(sink) == {20 * number + 20}
    assert seen.frame_ids == list(range(12)) and values(seen) == {150}
    assert stand.log.count(4) >= 6 and sum(stand.log) == 60


def test_without_a_word_of_it_every_frame_is_alone() -> None:
    stand = Stand(1, 2)
    made = [camera(stand, f"c{n}", Colours(9, 5)) for n in range(2)]
    Run([one for one, _ in made]).run()
    assert stand.log == [1] * 10


def test_a_frame_that_is_not_there_is_not_waited_for() -> None:
    stand = Stand(1, 2)
    ready, sink = camera(stand, "ready", Colours(30, 40))
    silent, _ = camera(stand, "silent", SyntheticSource(blocked=True, live=True))
    stop = threading.Event()
    run = Run([ready, silent], stop=stop, together=stand.segmenter.together)
    run.on_result = lambda name, frame, result: stop.set() if frame.frame_id == 39 else None
    begun_s = time.monotonic()
    run.run()
    assert sink.frame_ids == list(range(40)) and stand.log == [1] * 40
    assert time.monotonic() - begun_s < 5


def test_a_run_ends_after_as_many_results_as_were_asked_for() -> None:
    stand = Stand(1, 2, 4)
    made = [camera(stand, f"c{n}", Colours(9)) for n in range(4)]
    options = RunOptions(max_results=11)
    run = Run([one for one, _ in made], options, together=stand.segmenter.together)
    reports = run.run()
    assert run.outcome == "max_frames"
    assert sum(report.results.frames for report in reports) == 11 == sum(stand.log)


def test_no_camera_gets_less_for_having_words_of_its_own() -> None:
    stand = Stand(1, 2)
    for engine in stand.engines:
        engine.before = lambda _: time.sleep(0.005)
    made = [camera(stand, f"c{n}", Colours(9), "a,bb" if n < 3 else "bb,a") for n in range(4)]
    options = RunOptions(max_results=80)
    run = Run([one for one, _ in made], options, together=stand.segmenter.together)
    counts = [report.results.frames for report in run.run()]
    assert min(counts) >= 15 and 2 in stand.log


def test_a_broken_camera_costs_the_others_nothing() -> None:
    stand = Stand(1, 2, 4, broken=(66,))
    good = [camera(stand, f"good{n}", Colours(10 + n, 15)) for n in range(3)]
    broken, lost = camera(stand, "broken", Colours(66, 5))
    run = Run([*(one for one, _ in good), broken], together=stand.segmenter.together)
    *_, report = run.run()
    assert not lost.results and report.results.drops == {"engine failed": 5}
    assert [sink.frame_ids for _, sink in good] == [list(range(15))] * 3


def test_a_stop_does_not_wait_for_a_run_that_hangs() -> None:
    stand = Stand(1, 2)
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(batch: int) -> None:
        hangs.set()
        goes_on.wait(20)

    stand.engines[1].before = hang
    stand.engines[0].before = lambda _: time.sleep(0.02)
    made = [camera(stand, f"c{n}", Colours(9)) for n in range(2)]
    stop = threading.Event()
    run = Run([one for one, _ in made], stop=stop, together=stand.segmenter.together)
    asking = threading.Thread(target=lambda: (hangs.wait(20), stop.set()))
    asking.start()
    try:
        run.run()
        assert hangs.is_set() and run.engine_is_stuck
    finally:
        goes_on.set()
        asking.join()


def test_a_segmenter_that_cannot_be_made_lets_go_of_what_it_had() -> None:
    class Held:
        is_closed = False

        def close(self) -> None:
            self.is_closed = True

    class NoRoom(Rows):
        held = Held()

        def labeller(self, *, threads: int) -> Any:
            return self.held

        def run_labellers(self, *, threads: int, on_host: bool) -> Any:
            raise EngineError("no room for several frames")

    with pytest.raises(EngineError, match="no room"):
        Segmenter(NoRoom(1, []), encode, classes="a", thresholds=Thresholds({}, 0.0))
    assert NoRoom.held.is_closed


# The command


def _dedos_run(*arguments: object) -> int:
    given = ["--quiet", "--threads", "1", "--classes", WORDS, "--json", *map(str, arguments)]
    return run_command.main(given)


def test_cameras_of_the_command_share_runs(
    held: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    infer = OnnxEngine.infer

    def slow(engine: OnnxEngine, inputs: Any) -> Any:
        time.sleep(0.01)  # while it does, both sources have their next frame ready
        return infer(engine, inputs)

    monkeypatch.setattr(OnnxEngine, "infer", slow)
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(30):
        cv2.imwrite(str(frames / f"{number:02d}.png"), stripes(24, 36))
    given = ["--bundle", held, "--source", frames, "--source", frames, "--output", "null"]
    for batch in (1, 2):
        trace = tmp_path / f"{batch}.json"
        assert _dedos_run(*given, "--trace", trace, "--batch", batch) == 0, capsys.readouterr()
        assert [one["frames"] for one in json.loads(capsys.readouterr().out)["cameras"]] == [30, 30]
        shared = re.search("camera1, camera2|camera2, camera1", trace.read_text())
        assert (shared is not None) is (batch == 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "--batch must be at least 1, not 0"),
        (["--batch", "2"], "--batch 2 is for sources that share a run, and there is one"),
        (
            ["--source", "scene:hall", "--source", "scene:hall?seed=2", "--batch", "3"],
            "no graph for 3 frames per run, only for 1, 2, 4",
        ),
        (
            ["--source", "scene:hall", "--batch", "4"],
            "--batch 4 is more than the 2 sources, and no run would ever be that full; choose at most 2",
        ),
    ],
)
def test_batches_that_cannot_be_are_refused(
    held: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert _dedos_run("--bundle", held, "--source", "scene:street", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said and len(said.splitlines()) == 1
