"""Segmenter on the tiny colour graph: right labels, thresholds, clear errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from runtime_fakes import ConstantEngine, encode
from tiny_bundle import (
    BASE_WORDS,
    HEIGHT,
    WIDTH,
    at,
    image_graph,
    stripes,
    tiny_spec,
    write_tiny_bundle,
)

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import BadBundleError, BadInputError, EngineError
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.labelling import HostLabeller, Labelled
from dedos_deploy.runtime.slots import SlotTable, Thresholds
from dedos_deploy.spec import GraphSpec


def constant_segmenter(scores: NDArray[Any], classes: str, **options: Any) -> Segmenter:
    engine = ConstantEngine(scores, **options)
    return Segmenter(engine, encode, classes=classes, thresholds=Thresholds({}, 0.5), threads=1)


def test_every_stripe_gets_its_colour(segmenter: Segmenter) -> None:
    frame = stripes(70, 96)
    result = segmenter.segment(frame, timestamp_s=12.5)
    assert [at(result, name, frame) for name in ("red", "green", "blue")] == [0, 1, 2]
    assert result.classes == ("red", "green", "blue")
    assert result.label_map.shape == result.confidence.shape == (70, 96)
    assert (result.label_map.dtype, result.confidence.dtype) == (np.uint8, np.uint8)
    assert result.timestamp_s == 12.5
    assert set(result.latency_ms) == {"pre", "engine", "post"}


def test_counts_and_coverage_are_those_of_the_label_map(segmenter: Segmenter) -> None:
    segmenter.set_classes("red,blue")
    result = segmenter.segment(stripes(61, 93))
    for class_id in range(len(result.classes)):
        assert result.counts[class_id] == np.count_nonzero(result.label_map == class_id)
    unlabelled = np.count_nonzero(result.label_map == result.none_id)
    assert result.unlabelled == pytest.approx(unlabelled / result.label_map.size)
    assert list(result.coverage) == ["red", "blue"]


def test_results_are_never_overwritten(segmenter: Segmenter) -> None:
    first = segmenter.segment(stripes())
    kept = first.label_map.copy(), first.confidence.copy()
    segmenter.segment(np.zeros((60, 90, 3), np.uint8))
    np.testing.assert_array_equal(first.label_map, kept[0])
    np.testing.assert_array_equal(first.confidence, kept[1])


def test_a_view_of_a_larger_frame_equals_its_copy(segmenter: Segmenter) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    view = frame[5:80:2, 100:10:-1]
    result, expected = segmenter.segment(view), segmenter.segment(view.copy())
    np.testing.assert_array_equal(result.label_map, expected.label_map)


def test_a_frame_of_the_network_size_is_passed_through() -> None:
    scores = np.zeros((1, 1, 4, 4), np.float32)
    engine = ConstantEngine(scores)
    segmenter = Segmenter(engine, encode, classes="a", thresholds=Thresholds({}, 0.5))
    frame = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    segmenter.segment(frame)
    np.testing.assert_array_equal(engine.inputs["image"][0], frame)


def test_shrinking_averages_areas() -> None:
    scores = np.zeros((1, 1, 4, 4), np.float32)
    engine = ConstantEngine(scores)
    segmenter = Segmenter(engine, encode, classes="a", thresholds=Thresholds({}, 0.5))
    frame = np.random.default_rng(1).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    segmenter.segment(frame)
    means = frame.reshape(16, 4, 16, 3, 3).mean(axis=(1, 3))
    assert np.abs(engine.inputs["image"][0] - means).max() <= 0.5 + 1e-6


def test_synonyms_share_one_id(segmenter: Segmenter) -> None:
    frame = stripes()
    segmenter.set_classes("warm|red,cold|blue|green")
    result = segmenter.segment(frame)
    names = [result.classes[at(result, colour, frame)] for colour in ("red", "green", "blue")]
    assert names == ["warm", "cold", "cold"]


class OwnLabeller:
    """Labels every pixel with the first class, and tells when it is closed."""

    def __init__(self) -> None:
        self.open = True

    def label(
        self, frame_bgr: NDArray[np.uint8], table: SlotTable, *, explain: bool = False
    ) -> Labelled:
        size = frame_bgr.shape[:2]
        counts = np.array([size[0] * size[1]] + [0] * (len(table.names) - 1), np.int64)
        return Labelled(table.empty_label_map(size) * 0, np.ones(size, np.uint8), counts, {})

    def close(self) -> None:
        self.open = False


class LabellingEngine(ConstantEngine):
    """Has a way of its own to label frames."""

    def labeller(self, *, threads: int) -> OwnLabeller:
        self.own = OwnLabeller()
        return self.own


def test_an_engine_says_all_that_it_has() -> None:
    scores = np.full((1, 2, 4, 4), np.nan, np.float32)
    plain, own = ConstantEngine(scores), LabellingEngine(scores)
    assert (plain.facts(), plain.device_memory()) == ({}, None)
    assert isinstance(plain.labeller(threads=1), HostLabeller)
    segmenter = Segmenter(own, encode, classes="a,b", thresholds=Thresholds({}, 0.5), threads=1)
    frame = np.zeros((5, 7, 3), np.uint8)
    assert (segmenter.segment(frame).label_map == 0).all() and own.own.open
    segmenter.close()
    assert not own.own.open and own.closed == 1


class LookAgainEngine(ConstantEngine):
    """Looks at the image only after a pause, as an engine does that works on it in place."""

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        time.sleep(0.002)
        is_red = float(inputs["image"][0, 0, 0, 2] > 128)
        self._scores[:, 0], self._scores[:, 1] = is_red, 1.0 - is_red
        return {"scores": self._scores}


def test_concurrent_segment_calls_give_each_its_own_result() -> None:
    engine = LookAgainEngine(np.zeros((1, 2, 4, 4), np.float32))
    segmenter = Segmenter(engine, encode, classes="a,b", thresholds=Thresholds({}, 0.5), threads=1)
    wrong: list[int] = []

    def label(colour: tuple[int, int, int], expected: int) -> None:
        frame = np.full((40, 40, 3), colour, np.uint8)
        for _ in range(40):
            if not (segmenter.segment(frame).label_map == expected).all():
                wrong.append(expected)

    colours = ((0, 0, 255), (255, 0, 0))
    threads = [
        threading.Thread(target=label, args=(colour, expected))
        for expected, colour in enumerate(colours)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("background", "classes", "expected"),
    [
        ("threshold", "red@0.9,blue@0.1", {"red": "none", "blue": "blue"}),
        ("none", "red@0.9,blue@0.9", {"red": "red", "blue": "blue"}),
    ],
)
def test_thresholds(
    bundle_folder: Path, background: Any, classes: str, expected: dict[str, str]
) -> None:
    frame = (stripes() * 0.6).astype(np.uint8)
    with Segmenter.load(bundle_folder, classes=classes, background=background) as segmenter:
        result = segmenter.segment(frame)
    names = (*result.classes, *["none"] * 300)
    assert {colour: names[at(result, colour, frame)] for colour in expected} == expected


def test_threshold_order_entry_then_argument_then_bundle(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "b", thresholds={"red": 0.2})
    frame = (stripes() * 0.4).astype(np.uint8)
    with Segmenter.load(folder, classes="red,blue,green@0.1") as segmenter:
        result = segmenter.segment(frame)
        labels = [at(result, colour, frame) for colour in ("red", "blue", "green")]
        assert labels == [0, result.none_id, 2]
    with Segmenter.load(folder, classes="red,blue,green@0.5", threshold=0.3) as segmenter:
        result = segmenter.segment(frame)
        labels = [at(result, colour, frame) for colour in ("red", "blue", "green")]
        assert labels == [0, 1, result.none_id]


def test_background_none_labels_every_pixel(bundle_folder: Path) -> None:
    with Segmenter.load(bundle_folder, classes="red,blue", background="none") as segmenter:
        assert segmenter.segment(stripes()).unlabelled == 0.0


def test_negatives_take_pixels_without_naming_them(bundle_folder: Path) -> None:
    """A dim grey-blue pixel is a little red; only with the negative `blue` is it not called red."""
    frame = np.full((40, 40, 3), (200, 0, 150), np.uint8)
    with Segmenter.load(bundle_folder, classes="red") as segmenter:
        assert (segmenter.segment(frame).label_map == 0).all()
    with Segmenter.load(bundle_folder, classes="red", background="negatives") as segmenter:
        assert segmenter.negatives == tuple(word for word in BASE_WORDS if word != "red")
        result = segmenter.segment(frame)
        assert (result.label_map == result.none_id).all()
        assert result.classes == ("red",)
        segmenter.set_classes("red,blue")
        assert "blue" not in segmenter.negatives
        assert (segmenter.segment(frame).label_map == 1).all()


def test_negatives_need_a_base_vocabulary(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "b", base=False)
    with pytest.raises(BadBundleError, match="no base vocabulary.*'threshold' or 'none'"):
        Segmenter.load(folder, classes="red", background="negatives")


def test_many_classes_become_uint16(bundle_folder: Path) -> None:
    words = ["red", *(f"thing {index}" for index in range(999))]
    with Segmenter.load(bundle_folder, classes=words[:2]) as segmenter:
        assert segmenter.segment(stripes()).label_map.dtype == np.uint8
        segmenter.set_classes(words)
        frame = stripes()
        result = segmenter.segment(frame)
    assert result.label_map.dtype == np.uint16
    assert (result.none_id, len(result.classes)) == (65535, 1000)
    assert at(result, "red", frame) == 0


def test_half_precision_scores_label_alike(tmp_path: Path) -> None:
    folder = write_tiny_bundle(tmp_path / "half", half=True)
    frame = stripes()
    with Segmenter.load(folder, classes="red,green,blue") as segmenter:
        result = segmenter.segment(frame)
    assert [at(result, name, frame) for name in ("red", "green", "blue")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (None, "not a NoneType.*cv2.imread"),
        (np.zeros((4, 4, 3), np.float32), "dtype uint8.*not float32"),
        (np.zeros((4, 4), np.uint8), r"\[H, W, 3\].*not \[4, 4\]; convert grey"),
        (np.zeros((4, 4, 4), np.uint8), r"not \[4, 4, 4\].*cv2.COLOR_BGRA2BGR"),
        (np.zeros((0, 4, 3), np.uint8), r"at least one pixel, not \[0, 4, 3\]"),
    ],
)
def test_unusable_frames_are_refused(segmenter: Segmenter, frame: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        segmenter.segment(frame)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 700), (701, 3)])
def test_odd_frame_sizes(segmenter: Segmenter, size_hw: tuple[int, int]) -> None:
    frame = np.full((*size_hw, 3), (0, 0, 255), np.uint8)
    result = segmenter.segment(frame)
    assert result.label_map.shape == size_hw
    assert (result.label_map == 0).all()


def test_not_a_number_is_an_error_and_not_a_label() -> None:
    scores = np.full((1, 2, 4, 4), 0.7, np.float32)
    scores[0, 1, 2, 3] = np.nan
    segmenter = constant_segmenter(scores, "a,b")
    with pytest.raises(EngineError, match="scores that are not usable"):
        segmenter.segment(np.zeros((9, 9, 3), np.uint8))


def test_engine_with_slots_limits_the_words() -> None:
    scores = np.zeros((1, 4, 4, 4), np.float32)
    segmenter = constant_segmenter(scores, "a,b|c", max_slots=3)
    with pytest.raises(BadInputError, match="4 words, synonyms counted.*3 slots"):
        segmenter.set_classes("a,b|c,d")


def test_a_batched_graph_is_refused() -> None:
    spec = GraphSpec(height=16, width=16, text_width=4, batch=2)
    with pytest.raises(BadBundleError, match="takes 2 frames at a time"):
        constant_segmenter(np.zeros((2, 1, 4, 4), np.float32), "a", spec=spec)


def test_closing_twice_releases_once_and_keeps_a_given_bundle(bundle_folder: Path) -> None:
    engine = ConstantEngine(np.zeros((1, 1, 4, 4), np.float32))
    segmenter = Segmenter(engine, encode, classes="a", thresholds=Thresholds({}, 0.5))
    segmenter.close()
    segmenter.close()
    assert engine.closed == 1
    with Bundle.open(bundle_folder) as bundle:
        Segmenter.load(bundle, classes="red").close()
        with Segmenter.load(bundle, classes="red") as second:
            assert second.segment(stripes()).classes == ("red",)
            second.close()
            with pytest.raises(EngineError, match="closed"):
                second.segment(stripes())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ""}, "class list is empty"),
        ({"classes": []}, "has no class"),
        ({"classes": "red", "background": "sky"}, "unknown background 'sky'; choose one of none"),
        (
            {"classes": "red", "engine": "tpu"},
            "unknown engine 'tpu', did you mean 'cpu'.; choose one of cpu, openvino, cuda",
        ),
        ({"classes": "red", "threads": 0}, "threads must be at least 1, not 0"),
        ({"classes": "red", "text_threads": 0}, "text_threads must be at least 1, not 0"),
        ({"classes": "red", "threshold": 1.5}, r"threshold must lie in \[0, 1\], not 1.5"),
    ],
)
def test_unusable_arguments(bundle_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Segmenter.load(bundle_folder, **options)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"not a graph" * 50, "cannot load model.onnx: .*the file is damaged"),
        (image_graph()[:-200], "cannot load model.onnx: .*the file is damaged"),
        (image_graph(height=64), r"'image' of model.onnx is uint8 \[1, 64, 48, 3\].*promises"),
        (image_graph(half=True), "'scores' of model.onnx is float16"),
    ],
)
def test_a_wrong_graph_is_named(tmp_path: Path, model: bytes, message: str) -> None:
    folder = write_tiny_bundle(tmp_path / "b", model=model)
    with pytest.raises(EngineError, match=message) as caught:
        Segmenter.load(folder, classes="red")
    assert "\n" not in str(caught.value)


def test_engine_names_the_input_that_does_not_fit(bundle_folder: Path) -> None:
    from dedos_deploy.runtime import open_engine

    spec = tiny_spec()
    good = {
        "image": np.zeros((1, HEIGHT, WIDTH, 3), np.uint8),
        "text": np.zeros((2, spec.text_width), np.float32),
        "valid": np.ones(2, np.float32),
    }
    with Bundle.open(bundle_folder) as bundle, open_engine(bundle) as engine:
        assert engine.infer(good)["scores"].shape == (1, 2, *spec.score_hw)
        wrong = {
            "image": (good["image"].astype(np.float32), "'image' must be uint8"),
            "text": (good["text"][:, :-1], r"'text' must be float32 \['K', \d+\] with K=2"),
            "valid": (np.ones((2, 1), np.float32), r"'valid' must be float32 \['K'\]"),
        }
        for name, (array, message) in wrong.items():
            with pytest.raises(BadInputError, match=message):
                engine.infer({**good, name: array})
        with pytest.raises(BadInputError, match="takes the inputs image, text, valid, not image"):
            engine.infer({"image": good["image"]})
        empty = {"text": good["text"][:0], "valid": good["valid"][:0]}
        with pytest.raises(BadInputError, match="at least 1 text slots, not 0"):
            engine.infer({**good, **empty})


def test_engine_scores_equal_a_numpy_reference(bundle_folder: Path) -> None:
    from dedos_deploy.runtime import EngineOptions, open_engine

    rng = np.random.default_rng(3)
    spec = tiny_spec()
    for slots in (1, 5, 2):
        inputs = {
            "image": rng.integers(0, 256, (1, HEIGHT, WIDTH, 3), dtype=np.uint8),
            "text": rng.uniform(0, 0.5, (slots, spec.text_width)).astype(np.float32),
            "valid": (rng.random(slots) > 0.3).astype(np.float32),
        }
        with (
            Bundle.open(bundle_folder) as bundle,
            open_engine(bundle, options=EngineOptions(threads=1)) as engine,
        ):
            scores = engine.infer(inputs)["scores"][0]
        cells = inputs["image"][0].reshape(HEIGHT // 4, 4, WIDTH // 4, 4, 3).mean(axis=(1, 3)) / 255
        expected = np.einsum("kc,hwc->khw", inputs["text"][:, :3], cells).clip(0, 1)
        expected *= inputs["valid"][:, None, None]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
