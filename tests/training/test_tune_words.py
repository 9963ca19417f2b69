"""Tuned words: better on frames that they were not tuned on, or left as they were; refusals; the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from micro import Write
from torch import Tensor

from dedos_deploy.bundle import Bundle
from dedos_deploy.cli import _progress
from dedos_deploy.cli.train import main
from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.head_numbers import HEADS, WindowConfig
from dedos_deploy.model import build_model, load_checkpoint, save_checkpoint
from dedos_deploy.model.heads import build_dense
from dedos_deploy.presets import DenseConfig, ModelConfig
from dedos_deploy.progress import Progress
from dedos_deploy.runtime import Segmenter
from dedos_deploy.training.setup import checkpoint_path
from dedos_deploy.training.word_bounds import lower_bounds
from dedos_deploy.training.word_data import WordData, WordFrame
from dedos_deploy.training.word_heads import WordHead, word_head
from dedos_deploy.training.word_judging import (
    FOLDS,
    Choice,
    Judge,
    best_of,
    mean_iou_of,
    parts_of,
    to_put_back,
    tunable,
)
from dedos_deploy.training.word_tuning import Seen, TuneSettings, Words, see, tuned_rounds
from dedos_deploy.training.words import Given, TuneRequest, tune_words
from dedos_deploy.vocabulary import parse_vocabulary, vocabulary_from_file
from dedos_deploy.words_file import save_words_file

LEFT, RIGHT, THIRD = (0.8, 0.6, 0.0), (0.6, 0.8, 0.0), (0.0, 0.0, 1.0)
CONFUSED = torch.nn.functional.normalize(
    torch.tensor([[0.70, 0.714, 0.0], [0.72, 0.69, 0.0], [0.0, 0.0, 1.0]]), dim=-1
)
"""Rows by which what looks like LEFT is called the second word, and RIGHT the first."""


pytestmark = pytest.mark.usefixtures("one_thread_each")


class ColourHead:
    """A head whose scores are cosines of a pixel's three channels with the rows."""

    def features(self, image: Tensor) -> Tensor:
        return image[:, 2::4, 2::4].float().permute(0, 3, 1, 2) / 255

    def scores(self, features: Tensor, text: Tensor) -> Tensor:
        return torch.einsum("kd,bdhw->bkhw", text, features).clamp(0, 1)

    def settled(self, features: Tensor, text: Tensor) -> tuple[Tensor, ...]:
        return (features[..., 1::2, 1::2],)

    def shares(self, settled: tuple[Tensor, ...], text: Tensor) -> Tensor:
        return self.scores(settled[0], text)


def frames_of(
    count: int, *, words: str = "first,second,third", colours: Sequence[Any] = (LEFT, RIGHT, THIRD)
) -> WordData:
    """Return frames of 48x48 with a stripe of every colour."""
    vocabulary = parse_vocabulary(words)
    labels = np.repeat(np.repeat([[0, 1, 2]], 48, axis=0), 16, axis=1).astype(np.uint8)
    image = (255 * np.array(colours)[labels]).astype(np.uint8)[None]
    elsewhere = np.zeros(labels.shape, dtype=bool)
    frames = (WordFrame(f"{index}", image, labels, elsewhere) for index in range(count))
    return WordData(tuple(frames), vocabulary, (), 255)


def judge_of(data: WordData, rows: Tensor, *, slot_ids: tuple[int, ...] = (0, 1, 2)) -> Judge:
    moving = torch.ones(len(rows), dtype=torch.bool)
    words = Words(rows, slot_ids, moving, torch.zeros(0, 3))
    head: WordHead = ColourHead()
    return Judge(head, data, see(head, data, Progress().counted), words)


def test_words_that_are_confused_are_told_apart_on_frames_that_were_held_out() -> None:
    judge = judge_of(frames_of(8), CONFUSED)
    choice = judge.choose(TuneSettings(rounds=3, keep=0.0))
    assert mean_iou_of(choice.before) == pytest.approx(1 / 3)
    assert choice.kept and mean_iou_of(choice.after) == 1.0
    gain = judge.gain(choice)
    assert gain.difference == pytest.approx(2 / 3) and gain.low > 0.6
    assert all((rows @ CONFUSED.T).diagonal().min() > 0.9 for rows in choice.held_out)


def test_synonyms_are_tuned_each_with_its_own_row() -> None:
    rows = torch.cat([CONFUSED[:1], CONFUSED[:1], CONFUSED[1:]])
    data = frames_of(4, words="first|one,second,third")
    choice = judge_of(data, rows, slot_ids=(0, 0, 1, 2)).choose(TuneSettings(rounds=2, keep=0.0))
    assert choice.kept and choice.moving.tolist() == [True] * 4


def test_words_that_are_right_stay_as_they_are() -> None:
    judge = judge_of(frames_of(4), torch.tensor([LEFT, RIGHT, THIRD]))
    choice = judge.choose(TuneSettings(rounds=2))
    assert not choice.kept and choice.after is choice.before
    assert not choice.moving.any()


def chosen_round(before: list[float], *after: list[float]) -> int:
    """Return the round that is chosen, by the IoU of every class: before, and after each round."""

    def confusions(iou: list[float]) -> tuple[Confusion, ...]:
        found = Confusion(len(iou))
        right = np.round(1000 * np.array(iou)).astype(np.int64)
        np.fill_diagonal(found.matrix, right)
        found.matrix[:, -1] = 1000 - right
        return (found,)

    own, moving = confusions(before), torch.ones(len(before), dtype=torch.bool)
    none = Choice(0, ~moving, own, own, ())
    tried = [Choice(n, moving, own, confusions(iou), ()) for n, iou in enumerate(after, 1)]
    return best_of(none, tried).round


def test_the_best_round_is_taken_by_which_no_class_loses_two_points() -> None:
    assert chosen_round([0.5, 0.5], [0.9, 0.45], [0.6, 0.49], [0.55, 0.55]) == 3
    assert chosen_round([0.5, 0.5], [0.9, 0.45], [0.61, 0.485]) == 2
    assert chosen_round([0.5, 0.5], [0.9, 0.45]) == 0
    assert chosen_round([0.5, 0.5], [0.49, 0.5], [0.509, 0.509]) == 0
    assert chosen_round([0.5, 0.5], [0.49, 0.5], [0.511, 0.511]) == 2


def test_what_is_better_here_and_worse_elsewhere_is_not_kept() -> None:
    """Labels that say the opposite in every other part: what is learned there is wrong here."""
    data = frames_of(8)
    parts = parts_of(8)
    swapped = np.array([1, 0, 2], np.uint8)
    frames = tuple(
        replace(frame, labels=swapped[frame.labels]) if part == 0 else frame
        for frame, part in zip(data.frames, parts, strict=True)
    )
    judge = judge_of(replace(data, frames=frames), torch.tensor([LEFT, RIGHT, THIRD]))
    choice = judge.choose(TuneSettings(rounds=2, keep=0.0, rate=0.1))
    assert mean_iou_of(choice.after) >= mean_iou_of(choice.before)


def test_the_pull_and_the_neighbours_hold_words_back() -> None:
    data = frames_of(4)
    head: WordHead = ColourHead()
    seen = see(head, data, Progress().counted)
    moving = torch.tensor([True, True, False])

    def moved(negatives: Tensor = torch.zeros(0, 3), **settings: float) -> Tensor:  # noqa: B008
        words = Words(CONFUSED, (0, 1, 2), moving, negatives)
        quiet: dict[str, Any] = {"pull": 0.0, "keep": 0.0, "spread": 0.0, **settings}
        *_, rows = tuned_rounds(head, seen, words, TuneSettings(rounds=2, **quiet))
        assert torch.equal(rows[2], CONFUSED[2]), "what is not tuned does not move"
        return rows

    free = moved()
    assert torch.equal(free, moved()), "nothing is drawn"
    assert (moved(pull=5.0) - CONFUSED).norm() < 0.7 * (free - CONFUSED).norm()
    near = torch.nn.functional.normalize(torch.tensor([[0.95, 0.3, 0.0]]), dim=-1)
    nearest = [(rows[:2] @ near[0]).max() for rows in (free, moved(near, spread=1e4, free=0.0))]
    assert nearest[1] < nearest[0] - 0.003


def test_what_is_unlabelled_stays_and_mistakes_need_not() -> None:
    head: WordHead = ColourHead()
    seen = see(head, frames_of(4), Progress().counted)
    hidden = [replace(frame, labels=torch.full_like(frame.labels, 255)) for frame in seen]
    words = Words(CONFUSED, (0, 1, 2), torch.ones(3, dtype=torch.bool), torch.zeros(0, 3))

    def way(frames: list[Seen], keep: float) -> Tensor:
        settings = TuneSettings(rounds=1, pull=0.0, spread=0.0, keep=keep)
        *_, rows = tuned_rounds(head, frames, words, settings)
        return (rows - CONFUSED).norm()

    free = way(seen, 0.0)
    assert way(seen, 300.0) > 0.9 * free, "labels say that these pixels were called wrongly"
    assert way([*seen, *hidden], 300.0) < 0.7 * free


def choice_of(before: Any, after: Any, moving: list[bool]) -> Choice:
    """Return a choice by matrices [label, prediction] of three words on one frame."""
    sides = []
    for matrix in (before, after):
        confusion = Confusion(3)
        confusion.matrix[:, :3] = matrix
        sides.append((confusion,))
    return Choice(1, torch.tensor(moving), sides[0], sides[1], ())


def test_what_loses_is_put_back_and_then_what_takes_from_it() -> None:
    words = Words(CONFUSED, (0, 1, 2), torch.ones(3, dtype=torch.bool), torch.zeros(0, 3))
    before = [[50, 50, 0], [50, 150, 0], [0, 0, 200]]
    after = [[38, 62, 0], [10, 190, 0], [0, 0, 200]]
    assert to_put_back(choice_of(before, after, [True] * 3), words).tolist() == [False] * 3
    after = [[20, 80, 0], [0, 200, 0], [0, 0, 200]]
    own = choice_of(before, after, [True] * 3)
    assert to_put_back(own, words).tolist() == [True, False, False]
    own = choice_of(before, after, [False, True, True])
    assert to_put_back(own, words).tolist() == [False, True, False]


def sides_of(before: list[float], after: list[float]) -> tuple[tuple[Confusion, ...], ...]:
    """Return two sides of eight frames by the first class's IoU in each of the four parts; the second
    class is right."""
    sides = []
    for iou in (before, after):
        frames = [Confusion(2) for _ in range(8)]
        for frame, value in zip(frames, np.repeat(iou, 2), strict=True):
            frame.matrix[0] = [round(100 * value), 0, 100 - round(100 * value)]
            frame.matrix[1, 1] = 100
        sides.append(tuple(frames))
    return tuple(sides)


def test_a_gain_that_one_part_alone_shows_is_not_sure() -> None:
    parts = parts_of(8)
    even = lower_bounds(*sides_of([0.5] * 4, [0.6] * 4), parts)
    assert even.classes == pytest.approx([0.1, 0.0]) and even.mean == pytest.approx(0.05)
    uneven = lower_bounds(*sides_of([0.5] * 4, [0.9, 0.5, 0.5, 0.5]), parts)
    # The mean of four gains 0.4, 0, 0, 0 less its standard error: 0.1 - 0.2 / sqrt(4).
    assert uneven.classes == pytest.approx([0.0, 0.0], abs=1e-9)
    worse = lower_bounds(*sides_of([0.5] * 4, [0.98, 0.46, 0.46, 0.5]), parts)
    assert worse.classes[0] < -0.02, "0.1 is gained on average, by one part and against two"


def test_a_class_that_one_part_shows_has_its_gain_as_bound() -> None:
    before, after = sides_of([0.5] * 4, [0.4] * 4)
    for side in (before, after):
        for frame in side[2:]:
            frame.matrix[0] = 0
    low = lower_bounds(before, after, parts_of(8))
    assert low.classes == pytest.approx([-0.1, 0.0])


def test_words_whose_gain_is_not_sure_get_their_own_rows_again() -> None:
    words = Words(CONFUSED[:2], (0, 1), torch.ones(2, dtype=torch.bool), torch.zeros(0, 3))
    moving = torch.ones(2, dtype=torch.bool)
    sure, unsure = [0.6, 0.62, 0.58, 0.6], [0.98, 0.46, 0.46, 0.5]
    expected = {tuple(sure): False, tuple(unsure): True}
    for iou, back in expected.items():
        before, after = sides_of([0.5] * 4, list(iou))
        choice = Choice(1, moving, before, after, ())
        assert to_put_back(choice, words).tolist() == [back, False]
        none = Choice(0, ~moving, before, before, ())
        assert best_of(none, [choice]).kept is not back


def test_of_two_gains_the_surer_one_is_taken() -> None:
    own, even = sides_of([0.5] * 4, [0.6] * 4)
    moving = torch.ones(2, dtype=torch.bool)
    none = Choice(0, ~moving, own, own, ())
    larger = sides_of([0.5] * 4, [0.8, 0.5, 0.6, 0.54])[1]
    tried = [Choice(n, moving, own, after, ()) for n, after in enumerate((even, larger), 1)]
    assert mean_iou_of(larger) > mean_iou_of(even)
    assert best_of(none, tried).round == 1


def test_frames_near_each_other_are_held_out_together() -> None:
    assert parts_of(9).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    data = frames_of(8)
    hidden = [replace(frame, labels=np.minimum(frame.labels, 1)) for frame in data.frames[1:]]
    assert tunable(replace(data, frames=(data.frames[0], *hidden))).tolist() == [True, True, False]


@pytest.fixture
def checkpoint(micro: ModelConfig, tmp_path: Path) -> Path:
    path = tmp_path / "micro.safetensors"
    save_checkpoint(path, build_model(micro))
    return path


def test_cached_features_give_the_scores_of_the_graph(micro: ModelConfig) -> None:
    random = np.random.default_rng(0)
    rows = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(3, 16))), dim=-1)
    heads = (
        (HEADS["maskclip"](micro.clip.layers), None),
        (
            HEADS["naclip"](micro.clip.layers),
            WindowConfig(16, 8),
        ),
    )
    dense = [
        build_dense(DenseConfig("micro", micro.clip, (32, 32), head, windows=windows))
        for head, windows in heads
    ]
    image = torch.from_numpy(random.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8))
    text = rows.float()
    for model in (build_model(micro).eval(), *dense):
        head = word_head(model, "single")
        features = head.features(image)
        with torch.no_grad():
            expected = model(image, text, torch.ones(3))
        torch.testing.assert_close(head.scores(features, text), expected)
        shares = head.shares(head.settled(features, text), text)
        torch.testing.assert_close(shares, expected[..., 1::2, 1::2])


def test_the_command_writes_a_file_that_is_never_worse(
    checkpoint: Path, write_folder: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = write_folder(items=8), tmp_path / "my.words"
    command = ["tune-words", "--init", str(checkpoint), "--data", str(data)]
    command += ["--classes", "car|automobile,sky", "--frames", "4", "--output", str(output)]
    assert main([*command, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    keys = {"miou_words", "miou_tuned", "gain_low", "gain_high", "seconds", "kept"}
    assert keys <= set(values)
    assert values["miou_tuned"] >= values["miou_words"] and values["frames"] == 4
    assert [one["name"] for one in values["neighbours"]] == ["road"]
    assert not values["neighbours"][0]["tuned"]
    vocabulary = vocabulary_from_file(output)
    assert vocabulary.words == ("car", "automobile", "sky") and vocabulary.tuned is not None
    assert vocabulary.tuned.tuning["frames_used"] == ["001", "003", "005", "007"]
    assert all(entry.threshold is not None for entry in vocabulary.entries)


Refuse = Callable[..., str]


@pytest.fixture
def refused(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Refuse:
    """Return a function that runs the command, which must refuse, and returns its one line."""
    # On a busy machine a part that is refused may have lasted long enough to show.
    monkeypatch.setattr(_progress, "SILENT_S", float("inf"))

    def call(data: Path, *more: str) -> str:
        output = tmp_path / "my.words"
        command = ["tune-words", "--init", str(checkpoint), "--data", str(data)]
        assert main([*command, "--output", str(output), *more]) == 2
        error = capsys.readouterr().err
        assert error.startswith("dedos-train tune-words: error: ") and error.count("\n") == 1
        assert not output.exists()
        return error

    return call


def test_too_few_frames_and_words_without_a_pixel(refused: Refuse, write_folder: Write) -> None:
    one = write_folder("one", items=1)
    assert "1 frame of split 'train'" in (said := refused(one)) and "at least 4, better 20" in said
    data = write_folder(items=6)
    assert "3 frames of split" in refused(data, "--frames", "3")
    (data / "classes.txt").write_text("sky\nroad\ncar\ndog\n")
    said = refused(data, "--classes", "dog,car", "--frames", "4")
    assert "none of the 4 frames has a labelled pixel of 'dog'; take more --frames" in said
    assert "class 'cat' is not in the data" in refused(data, "--classes", "cat")


def test_a_word_twice_and_labels_that_contradict_each_other(
    refused: Refuse, write_folder: Write, tmp_path: Path
) -> None:
    data = write_folder(items=5)
    assert "'Car' occurs twice" in refused(data, "--classes", "car,road,Car")
    shutil.copy(data / "images/train/000.png", data / "images/train/009.png")
    label = cv2.imread(str(data / "labels/train/000.png"), cv2.IMREAD_UNCHANGED)
    label[20:, :10] = 0
    cv2.imwrite(str(data / "labels/train/009.png"), label)
    assert "'000' and '009' are the same picture with different labels" in refused(data)
    missing = tmp_path / "none" / "my.words"
    assert "has no folder to lie in" in refused(data, "--output", str(missing))
    inside = data / "labels/train/000.png"
    assert "which would be lost" in refused(data, "--output", str(inside))


def test_words_that_are_tuned_already_and_files_cut_off(
    refused: Refuse, write_folder: Write, tmp_path: Path
) -> None:
    tuned = save_words_file(
        tmp_path / "tuned.words",
        entries=["car"],
        words=["car"],
        embeddings=np.eye(1, 16, dtype=np.float32),
        model_sha256="a" * 64,
        tuning={},
    )
    data = write_folder(items=4)
    said = refused(data, "--classes", str(tuned))
    assert "has words that are tuned already" in said and "give --classes a list of words" in said
    tuned.write_bytes(tuned.read_bytes()[:-7])
    assert "cannot be used: vocabulary is damaged" in refused(data, "--classes", str(tuned))


class _Interrupting(Progress):
    """Raises what Ctrl-C raises once frames are held out."""

    def count(self, done: int, total: int, unit: str = "image") -> None:
        if unit == "round" and done == 2:
            raise KeyboardInterrupt


def small_settings() -> TuneSettings:
    return TuneSettings(rounds=1, steps=2)


def test_an_interrupt_leaves_nothing(
    micro: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    given = Given(build_model(micro), "a" * 64, (32, 32), "single")
    request = TuneRequest(str(write_folder(items=4)), settings=small_settings())
    with pytest.raises(KeyboardInterrupt):
        tune_words(given, request, tmp_path / "my.words", progress=_Interrupting())
    assert not list(tmp_path.glob("*my.words*"))


def test_words_tuned_on_the_embedded_weights_fit_the_demo_bundle(
    write_folder: Write, tmp_path: Path
) -> None:
    with Bundle.open("demo") as bundle:
        sha256 = bundle.manifest.checkpoint_sha256
    assert sha256 is not None
    model, _ = load_checkpoint(checkpoint_path("embedded"))
    given = Given(model, sha256, (96, 128), "single", ("tree", "lamp"))
    request = TuneRequest(str(write_folder(items=4)), settings=small_settings())
    report = tune_words(given, request, tmp_path / "my.words")
    assert report.feature_bytes > 0 and len(report.words) == 3 and FOLDS == 4
    with Segmenter.load("demo", classes=tmp_path / "my.words") as segmenter:
        assert segmenter.classes == ("sky", "road", "car")
