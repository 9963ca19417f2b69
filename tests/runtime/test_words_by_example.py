"""Words by example: regions of pictures become rows, beside the words that are there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_bundle import TEXT_WIDTH, at, examples_graph, stripes, write_tiny_bundle

from dedos_deploy.errors import BadInputError, EngineError
from dedos_deploy.runtime import Segmenter
from dedos_deploy.runtime.examples import Example
from dedos_deploy.runtime.learning import best_candidate
from dedos_deploy.vocabulary_file import read_vocabulary_file

MODEL = "a" * 64
Frame = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    files = {"examples.onnx": examples_graph()}
    return write_tiny_bundle(folder / "tiny.dedos", checkpoint_sha256=MODEL, files=files)


@pytest.fixture
def segmenter(bundle: Path) -> Iterator[Segmenter]:
    with Segmenter.load(bundle, classes="blue,red@0.25", threads=1) as opened:
        yield opened


def middle(frame: Frame) -> Mask:
    """The green stripe."""
    mask = np.zeros(frame.shape[:2], dtype=bool)
    mask[:, frame.shape[1] // 3 : 2 * frame.shape[1] // 3] = True
    return mask


def test_a_region_becomes_a_word_from_the_next_frame_on(segmenter: Segmenter) -> None:
    frame = stripes()
    version = segmenter.vocabulary_version
    learned = segmenter.learn("xyzzy", frame, middle(frame))
    assert learned.separates and learned.added and learned.margin > 0.8 and learned.examples == 1
    assert learned.row.shape == (TEXT_WIDTH,) and learned.row.dtype == np.float32
    assert abs(float(np.linalg.norm(learned.row)) - 1) < 1e-5
    assert segmenter.classes == ("blue", "red", "xyzzy")
    assert segmenter.vocabulary_version == version + 1
    result = segmenter.segment(frame)
    assert [at(result, name, frame) for name in ("blue", "green", "red")] == [0, 2, 1]


def test_box_and_scribble_mean_the_same(segmenter: Segmenter) -> None:
    frame = stripes()
    for region in ((32, 2, 58, 58), np.array([[40, 10], [50, 50]])):
        learned = segmenter.learn("xyzzy", frame, region)
        assert learned.margin > 0.8
        assert at(segmenter.segment(frame), "green", frame) == 2


def test_five_frames_count_the_same(segmenter: Segmenter) -> None:
    frames = [stripes(60, width) for width in (60, 90, 120, 150, 180)]
    learned = segmenter.learn("xyzzy", frames, [middle(frame) for frame in frames])
    assert learned.examples == 5 and learned.margin > 0.8


def test_a_word_that_is_there_keeps_id_threshold_and_place(segmenter: Segmenter) -> None:
    frame = stripes()
    segmenter.learn("red", frame, middle(frame))
    assert [spelled for _, _, spelled in segmenter.entries] == ["blue", "red@0.25"]
    result = segmenter.segment(frame)
    assert at(result, "green", frame) == 1
    segmenter.set_classes("red,blue")
    assert at(segmenter.segment(frame), "green", frame) == 1, "kept in other lists"


def test_what_does_not_separate_is_added_only_if_asked(segmenter: Segmenter) -> None:
    frame = np.full((60, 90, 3), 128, dtype=np.uint8)
    version = segmenter.vocabulary_version
    learned = segmenter.learn("fog", frame, middle(frame))
    assert not learned.separates and not learned.added and abs(learned.margin) < 0.1
    assert segmenter.vocabulary_version == version and "fog" not in segmenter.classes
    learned = segmenter.learn("fog", frame, middle(frame), anyway=True)
    assert learned.added and not learned.separates and "fog" in segmenter.classes


def test_of_two_rows_the_one_with_the_larger_overlap_is_taken() -> None:
    """A row that covers a small thing and much else has the better margin, and is worth less."""
    mask = np.zeros((10, 100), dtype=bool)
    mask[:, :2] = True
    example = Example(np.zeros((10, 100, 3), np.uint8), mask, ~mask)
    embedding = np.zeros((2, 10, 100), dtype=np.float32)
    embedding[0, mask], embedding[1, ~mask] = 1, 1

    def labelled(_: Example, row: NDArray[np.float32]) -> NDArray[np.bool_]:
        found = mask.copy()
        if row[1] < -0.5:  # the row of the examples alone: all of it, and 20 columns more
            found[:, :22] = True
        else:
            found[5:] = False
        return found

    best = best_candidate([embedding], [example], np.array([0, 1], np.float32), labelled)
    assert best.from_text and best.overlap == 0.5 and best.margin == 0.5 and best.separates
    alone = best_candidate([embedding], [example], None, labelled)
    assert alone.margin > 0.7 and alone.overlap < 0.1 and not alone.separates


def test_words_file_goes_to_another_segmenter(
    segmenter: Segmenter, bundle: Path, tmp_path: Path
) -> None:
    frame = stripes()
    segmenter.learn("my pallet", frame, middle(frame))
    path = segmenter.words_file(tmp_path / "my.words")
    said = read_vocabulary_file(path).metadata
    assert said["model_sha256"] == MODEL
    assert json.loads(said["entries"]) == ["blue", "red@0.25", "my pallet"]
    tuning = json.loads(said["tuning"])
    assert (
        tuning["text_rows"] == ["blue", "red"] and tuning["examples"]["my pallet"]["examples"] == 1
    )
    with Segmenter.load(bundle, classes=path, threads=1) as other:
        np.testing.assert_array_equal(
            other.segment(frame).label_map, segmenter.segment(frame).label_map
        )


def test_running_frames_see_the_old_words_or_the_new_ones(segmenter: Segmenter) -> None:
    frame = stripes()
    done = threading.Event()
    seen: set[tuple[tuple[str, ...], int]] = set()

    def run() -> None:
        while not done.is_set():
            result = segmenter.segment(frame)
            seen.add((result.classes, at(result, "green", frame)))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(5):
            segmenter.learn("xyzzy", frame, middle(frame))
            segmenter.set_classes("blue,red")
    finally:
        done.set()
        thread.join(10)
    assert seen <= {
        (("blue", "red"), 255),
        (("blue", "red", "xyzzy"), 2),
        (("blue", "red", "xyzzy"), 255),
    }


def refusals() -> list[tuple[object, object, str]]:
    frame = stripes()
    mask = middle(frame)
    other = frame.copy()
    return [
        (frame, ~mask & mask, "mask is empty; mark what the word means"),
        (frame, mask | ~mask, "covers the whole frame"),
        (frame, mask[:-1], r"mask is \[59, 90\], but its frame is \[60, 90\]"),
        (frame, mask.astype(np.uint8), r"must be bool .* not uint8 \[60, 90\]"),
        (frame, (10, 10, 10, 20), r"box is \(10, 10, 10, 20\), but a box is"),
        (frame, (10, 10, 95, 20), "0 <= x0 < x1 <= 90"),
        (frame, np.array([[5, 60]]), "scribble leaves its frame of 90x60"),
        (frame, np.empty((0, 2), np.int64), "mask is empty"),
        (frame.astype(np.float32), mask, "dtype uint8"),
        ([stripes(60, 90 + n) for n in range(6)], [mask] * 6, "1 to 5 frames, not 6"),
        ([], [], "1 to 5 frames, not 0"),
        (
            "frame.png",
            mask,
            "frames must be one array or a sequence of them, not 'frame.png'; read",
        ),
        (None, mask, "frames must be one array"),
        ([frame], None, "masks must be one array or a sequence of them, not None"),
        (frame, [[1, 2], [3]], r"mask is \[\[1, 2\], \[3\]\], which is no array; give bool"),
        ([frame, stripes(60, 120)], [mask], "2 frames and 1 masks"),
        ([frame, other], [mask, ~mask], "frames 1 and 2 are the same picture with different masks"),
        ([frame, other], [mask, mask], "same picture with the same mask; leave one out"),
    ]


@pytest.mark.parametrize(("frames", "masks", "said"), refusals())
def test_refuses_what_cannot_be_meant(
    segmenter: Segmenter, frames: object, masks: object, said: str
) -> None:
    before = segmenter.vocabulary_version
    with pytest.raises(BadInputError, match=said):
        segmenter.learn("xyzzy", frames, masks)  # type: ignore[arg-type]
    assert segmenter.vocabulary_version == before


def test_refuses_synonyms_and_a_bundle_without_the_graph(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    frame = stripes()
    with pytest.raises(BadInputError, match="'a|b' has synonyms"):
        segmenter.learn("a|b", frame, middle(frame))
    plain = write_tiny_bundle(tmp_path / "plain.dedos")
    with (
        Segmenter.load(plain, classes="blue", threads=1) as other,
        pytest.raises(BadInputError, match="was exported without --examples, so it cannot learn"),
    ):
        other.learn("xyzzy", frame, middle(frame))
    with (
        Segmenter.load(plain, classes="blue", threads=1) as other,
        pytest.raises(BadInputError, match="does not say of which checkpoint"),
    ):
        other.words_file(tmp_path / "my.words")


@pytest.mark.parametrize("before", [True, False])
def test_refuses_after_close(bundle: Path, before: bool) -> None:
    frame = stripes()
    opened = Segmenter.load(bundle, classes="blue", threads=1)
    if before:
        opened.learn("xyzzy", frame, middle(frame))
    opened.close()
    with pytest.raises(EngineError, match="this segmenter is closed"):
        opened.learn("again", frame, middle(frame))


def test_text_that_the_tower_cannot_read_is_learned_from_the_examples_alone(
    segmenter: Segmenter,
) -> None:
    frame = stripes()
    learned = segmenter.learn("x" * 400, frame, middle(frame))
    assert not learned.from_text and learned.separates
