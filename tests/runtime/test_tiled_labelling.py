"""Frames that are labelled through windows: as whole where one is enough, finer where it is not, and all
that results can be asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import encode
from tiny_bundle import HEIGHT, WIDTH, write_tiny_bundle

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime import Engine, Nv12Frame, Segmentation, Segmenter, open_engine
from dedos_deploy.runtime.engines.batched import BatchedEngine
from dedos_deploy.runtime.frame import resize_frame
from dedos_deploy.runtime.slots import Thresholds
from dedos_deploy.runtime.tiling import Plan, Tiling, Window
from dedos_deploy.scenes import render_image
from dedos_deploy.spec import GraphSpec
from dedos_deploy.tiles import Grid, Stride, parse_tiles

Array = NDArray[Any]
SPEC = GraphSpec(height=32, width=48, text_width=4)


class ColourEngine(Engine):
    """Scores of a cell are the mean levels of its blue, green and red, as parts of 255; records runs."""

    def __init__(self, batch: int = 1, *, half: bool = False) -> None:
        dtype: Any = "float16" if half else "float32"
        self.spec = GraphSpec(SPEC.height, SPEC.width, 4, batch=batch, score_dtype=dtype)
        self.seen: list[Array] = []
        self.spoilt: int | None = None
        """Number of the run that gives a NaN."""

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        image = inputs["image"]
        if self.spoilt == len(self.seen):
            scores = np.full((len(image), 3, *self.spec.score_hw), np.nan)
        else:
            cells = image.reshape(len(image), *self._cells, 3).astype(np.float32)
            scores = cells.mean(axis=(2, 4)).transpose(0, 3, 1, 2) / 255
        self.seen += list(image.copy())
        slots = len(inputs["valid"])
        return {"scores": np.ascontiguousarray(scores[:, :slots], self.spec.score_dtype)}

    def close(self) -> None:
        """Nothing is held."""

    @property
    def _cells(self) -> tuple[int, int, int, int]:
        height, width = self.spec.score_hw
        return height, 4, width, 4


def tiled(engine: Engine, tiling: Tiling | None, **options: Any) -> Segmenter:
    given: dict[str, Any] = {"thresholds": Thresholds({}, 0.5), "threads": 2, **options}
    return Segmenter(engine, encode, classes="a,bb,ccc", tiling=tiling, **given)


@pytest.fixture(scope="module")
def street() -> Array:
    return render_image("street", seed=3, size_hw=(128, 192))[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle", batches=(2, 4))


def same(one: Segmentation, other: Segmentation) -> None:
    np.testing.assert_array_equal(one.label_map, other.label_map)
    np.testing.assert_array_equal(one.confidence, other.confidence)
    np.testing.assert_array_equal(one.counts, other.counts)
    assert one.evidence is not None and other.evidence is not None
    np.testing.assert_array_equal(one.evidence.scores, other.evidence.scores)


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("tiling", "size_hw"),
    [
        (Tiling("auto"), (32, 48)),
        (Tiling("auto"), (60, 90)),
        (Tiling("auto"), (20, 40)),
        (Tiling(Grid(1, 1)), (97, 131)),
        (Tiling(Grid(3, 1)), (64, 96)),  # one column of that aspect is as high as the frame
        (Tiling("off", whole=False), (50, 192)),
    ],
    ids=str,
)
def test_where_one_window_covers_the_frame_nothing_is_another_bit(
    street: Array, tiling: Tiling, size_hw: tuple[int, int], half: bool, stable: bool
) -> None:
    frames = [street[: size_hw[0], shift : shift + size_hw[1]] for shift in (0, 1)]
    options: dict[str, Any] = {"explain": True, "stable": stable}
    plain, other = ColourEngine(half=half), ColourEngine(half=half)
    with tiled(plain, None, **options) as alone, tiled(other, tiling, **options) as segmenter:
        for frame in frames:
            found = segmenter.segment(frame)
            same(found, alone.segment(frame))
            assert found.windows == 1
    np.testing.assert_array_equal(plain.seen, other.seen)


def reference(plan: Plan, shown: Callable[[Window], Array]) -> Array:
    """Return the blended score map in float64; shown: scores [K, h, w] of a window."""
    total: Any = 0.0
    for window in plan.windows:
        scores = shown(window).astype(float)
        for axis, at in ((1, window.rows), (2, window.columns)):
            below = np.floor(at).astype(int)
            above = np.minimum(below + 1, scores.shape[axis] - 1)
            part = (at - below).reshape(-1, 1) if axis == 1 else at - below
            scores = scores.take(below, axis) * (1 - part) + scores.take(above, axis) * part
        total = total + scores * np.outer(window.down.astype(float), window.across.astype(float))
    return np.asarray(total)


@pytest.mark.parametrize("tiles", ["2x3", "19", "auto"])
def test_a_bundle_s_scores_are_those_of_its_windows_blended(
    folder: Path, street: Array, tiles: str
) -> None:
    with (
        Segmenter.load(folder, classes="red,green", tiles=tiles, explain=True) as segmenter,
        Bundle.open(folder) as bundle,
        open_engine(bundle) as engine,
    ):
        found = segmenter.segment(street)
        assert found.evidence is not None
        # Of the words asked for.
        text, valid = segmenter._table.text, segmenter._table.valid
        plan = Tiling(parse_tiles(tiles)).plan((128, 192), (HEIGHT, WIDTH))

        def shown(window: Window) -> Array:
            top, left, bottom, right = window.box
            image = np.empty((1, HEIGHT, WIDTH, 3), np.uint8)
            resize_frame(street[top:bottom, left:right], image[0])
            return engine.infer({"image": image, "text": text, "valid": valid})["scores"][0]

        wanted = reference(plan, shown)
    assert found.windows == len(plan.windows) > 4
    np.testing.assert_allclose(found.evidence.scores, wanted, atol=1e-6)


def test_a_thin_thing_is_seen_through_windows_and_not_in_the_whole() -> None:
    frame = np.zeros((128, 192, 3), np.uint8)
    frame[:, 95:98, 2] = 255  # three pixels of 192, of which a cell of the whole has sixteen
    with tiled(ColourEngine(), None) as whole, tiled(ColourEngine(), Tiling(Grid(5, 5))) as fine:
        thresholds = "a,bb,ccc@0.2"
        for segmenter in (whole, fine):
            segmenter.set_classes(thresholds)
        assert whole.segment(frame).counts[2] == 0
        found = fine.segment(frame)
    assert found.counts[2] > 128
    columns = np.flatnonzero((found.label_map == 2).all(axis=0))
    assert columns.min() >= 93 and columns.max() <= 101
    assert np.count_nonzero(found.label_map == 2) == found.counts[2] == len(columns) * 128


def test_windows_share_runs_where_there_are_graphs_for_several(street: Array) -> None:
    alone = ColourEngine()
    several = [ColourEngine(batch) for batch in (1, 2, 4)]
    with (
        tiled(alone, Tiling(Grid(2, 3)), explain=True) as one,
        tiled(BatchedEngine(several), Tiling(Grid(2, 3)), explain=True) as other,
    ):
        same(other.segment(street), one.segment(street))
        assert other.together.batches == (1,)
    assert [len(engine.seen) for engine in (alone, *several)] == [7, 1, 2, 4]
    shown = np.concatenate([several[2].seen, several[1].seen, several[0].seen])
    np.testing.assert_array_equal(shown, alone.seen)


def test_all_graphs_of_a_bundle_are_opened_for_windows(folder: Path) -> None:
    with Segmenter.load(folder, classes="red", tiles="2x2") as segmenter:
        assert segmenter._core._engine.facts()["batches"] == [1, 2, 4]
    with Segmenter.load(folder, classes="red") as segmenter:
        assert "batches" not in segmenter._core._engine.facts()
    with pytest.raises(
        BadInputError, match="a batch of 2 is for frames that share a run, but with tiles"
    ):
        Segmenter.load(folder, classes="red", tiles="2x2", batch=2)


def test_the_bundle_s_own_tiles_hold_unless_a_run_says_otherwise(
    tmp_path: Path, street: Array
) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiled", tiles="2x3")
    for tiles, windows in ((None, 7), ("off", 1), ("2x2", 5), (Tiling(flips=True), 2)):
        with Segmenter.load(bundle, classes="red", tiles=tiles) as segmenter:
            assert segmenter.segment(street).windows == windows
    for tiles, message in (("2*3", "are no tiles"), ("25", "longer than 24 pixels")):
        with pytest.raises(BadInputError, match=message):
            Segmenter.load(bundle, classes="red", tiles=tiles)
    number: Any = 24
    with pytest.raises(BadInputError, match="a text such as 'auto', '2x3' or '192', or a Tiling"):
        Segmenter.load(bundle, classes="red", tiles=number)


def test_every_graph_has_scores_of_its_own_to_widen(street: Array) -> None:
    one, four = ColourEngine(half=True), ColourEngine(4, half=True)
    with tiled(BatchedEngine((one, four)), Tiling(Grid(2, 2)), explain=True) as segmenter:
        before = segmenter.segment(street)
        held = [id(scores) for scores in segmenter._core.labeller._scores.values()]  # type: ignore[attr-defined]
        same(segmenter.segment(street), before)
        after = [id(scores) for scores in segmenter._core.labeller._scores.values()]  # type: ignore[attr-defined]
    assert len(held) == 2 and after == held


def test_labels_are_explained_by_the_blended_scores(street: Array) -> None:
    with tiled(ColourEngine(), Tiling(Grid(2, 3)), explain=True) as segmenter:
        found = segmenter.segment(street)
        assert found.evidence is not None and found.evidence.scores.shape == (3, 14, 21)
        rng = np.random.default_rng(0)
        for y, x in zip(rng.integers(0, 128, 60), rng.integers(0, 192, 60), strict=True):
            candidates = found.top(y, x)
            best = max(one.score for one in candidates if one.kind == "word")
            assert found.confidence[y, x] == np.rint(255 * best)
            decided = next(one for one in candidates if one.decided)
            label = found.label_map[y, x]
            named = "unlabelled" if label == found.none_id else found.classes[label]
            assert decided.name == named
        assert 0 < found.unlabelled < 1
        kept = found.evidence.scores.copy()
        segmenter.segment(255 - street)
        np.testing.assert_array_equal(found.evidence.scores, kept)


@pytest.mark.parametrize("size_hw", [(130, 194), (128, 190)])
def test_frames_come_in_every_form(street: Array, size_hw: tuple[int, int]) -> None:
    frame = cv2.resize(street, size_hw[::-1])
    yuv = cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420)
    height, width = size_hw
    chroma = yuv[height:].reshape(2, height // 2, width // 2).transpose(1, 2, 0)
    nv12 = Nv12Frame(yuv[:height], np.ascontiguousarray(chroma))
    with tiled(ColourEngine(), Tiling(Grid(2, 2)), explain=True) as segmenter:
        wanted = segmenter.segment(frame)
        same(segmenter.segment(np.ascontiguousarray(frame[:, :, ::-1]), order="rgb"), wanted)
        same(segmenter.submit(frame).result(), wanted)
        same(segmenter.segment(nv12), segmenter.segment(nv12.frame_bgr))


def test_mirrored_windows_are_mirrored_back(street: Array) -> None:
    """Of an engine that is blind to left and right, flips change nothing but rounding."""
    with (
        tiled(ColourEngine(), Tiling(Grid(2, 2)), explain=True) as plain,
        tiled(ColourEngine(), Tiling(Grid(2, 2), flips=True), explain=True) as flipped,
    ):
        frame = np.ascontiguousarray(street[:, :180])
        one, other = plain.segment(frame), flipped.segment(frame)
    assert (one.windows, other.windows) == (5, 10)
    assert one.evidence is not None and other.evidence is not None
    np.testing.assert_allclose(other.evidence.scores, one.evidence.scores, atol=0.01)


def test_every_stream_has_a_past_of_its_own_in_blended_scores(street: Array) -> None:
    dim = (street // 2 + 40).astype(np.uint8)
    with (
        tiled(ColourEngine(), Tiling(Grid(2, 2)), explain=True, stable=True) as segmenter,
        tiled(ColourEngine(), Tiling(Grid(2, 2)), explain=True) as plain,
    ):
        views = [segmenter.share("a,bb,ccc") for _ in range(2)]
        same(views[0].segment(dim + 3), segmenter.segment(dim + 3))
        one, other = views[0].segment(dim), views[1].segment(dim)
        same(segmenter.segment(dim), one)
        same(other, plain.segment(dim))
        assert one.evidence is not None and other.evidence is not None
        # Most of the frame before, which was brighter by 3 levels.
        gain = one.evidence.scores - other.evidence.scores
        assert 1.5 / 255 < np.median(gain) < 3 / 255
        with pytest.raises(BadInputError, match="leave result='device' out"):
            views[0].segment(dim, result="device")


def test_scores_of_a_window_that_are_no_numbers_fail_the_frame_alone(street: Array) -> None:
    engine = ColourEngine()
    with tiled(engine, Tiling(Grid(2, 2)), explain=True, stable=True) as segmenter:
        wanted = segmenter.segment(street)
        engine.spoilt = len(engine.seen) + 3
        with pytest.raises(EngineError, match="scores that are not usable .scores must be finite"):
            segmenter.segment(street)
        engine.spoilt = None
        same(segmenter.segment(street), wanted)  # and what was spoilt is no past of it


def test_a_frame_of_too_many_windows_is_refused_alone(street: Array) -> None:
    with tiled(ColourEngine(), Tiling(Stride(4))) as segmenter:
        view = segmenter.share("a,bb")
        found = segmenter.together.segment([(view, street, 0.0), (view, street[:36, :52], 0.0)])
        assert isinstance(found[0], BadInputError) and "more than 256" in str(found[0])
        assert isinstance(found[1], Segmentation) and found[1].windows == 5


def test_results_on_a_device_are_refused(street: Array) -> None:
    message = r"looked at through tiles are labelled on the host; leave result='device' out"
    with tiled(ColourEngine(), Tiling(Grid(2, 2))) as segmenter:
        with pytest.raises(BadInputError, match=message):
            segmenter.segment(street, result="device")


def test_words_and_frames_of_other_sizes_come_and_go(street: Array) -> None:
    with tiled(ColourEngine(), Tiling("auto"), explain=True) as segmenter:
        wanted = segmenter.segment(street)
        segmenter.set_classes("a")
        assert segmenter.segment(street[:100]).classes[0] == "a"
        assert segmenter.segment(street[:40, :50]).windows == 1
        segmenter.set_classes("a,bb,ccc")
        same(segmenter.segment(street), wanted)
