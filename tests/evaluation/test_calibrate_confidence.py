"""What scores are worth: curves fitted to counts, written into a bundle, and measured on other images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from colours import COLOURS, write_bundle

from dedos_deploy.bundle import Bundle
from dedos_deploy.cli.eval import main as evaluate
from dedos_deploy.evaluation.curve_fit import FittedCurves, fit_curves, isotonic
from dedos_deploy.evaluation.thresholds import ThresholdCounts
from dedos_deploy.runtime import Segmenter
from dedos_deploy.words_file import save_words_file

LEVELS = np.arange(256)


def parts(worth: list[np.ndarray], pixels: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return four parts with that many pixels of each class in all, right as often as `worth` says."""
    found = []
    for seed in range(4):
        random = np.random.default_rng(seed)
        total = np.stack(
            [np.bincount(random.integers(0, 256, n // 4), minlength=256) for n in pixels]
        )
        found.append((random.binomial(total, np.stack(worth)), total))
    return found


def worth_of(fitted: FittedCurves, index: int) -> np.ndarray:
    return fitted.by_class[index] / 255


def test_isotonic_is_the_nearest_that_never_falls() -> None:
    random = np.random.default_rng(0)
    accuracy, weight = random.random(30), random.random(30) + 0.1
    found = isotonic(accuracy, weight)
    assert (np.diff(found) >= 0).all()
    error = (weight * (found - accuracy) ** 2).sum()
    for _ in range(200):
        other = np.sort(found + random.normal(0, 0.05, 30))
        assert (weight * (other - accuracy) ** 2).sum() >= error


def test_classes_that_differ_get_curves_of_their_own() -> None:
    shares = [0.9 * LEVELS / 255, (LEVELS / 255) ** 3]
    fitted = fit_curves([parts(shares, [400_000, 400_000])])
    for index, share in enumerate(shares):
        assert np.abs(worth_of(fitted, index) - share).max() < 0.08
        assert (np.diff(fitted.by_class[index].astype(int)) >= 0).all()
    before, after = (found[-1] for found in (fitted.before, fitted.after))
    assert before is not None and after is not None
    assert before.error > 0.14 and after.error < 0.02


def test_a_class_with_few_pixels_keeps_close_to_all() -> None:
    share = LEVELS / 510
    few = [share, share, np.ones(256)]
    fitted = fit_curves([parts(few, [400_000, 400_000, 80])])
    assert np.abs(worth_of(fitted, 2) - worth_of(fitted, 0)).max() < 0.05
    # A class without a pixel has the curve of all, or nearly.
    empty = fit_curves(
        [[(r * [[1], [1], [0]], t * [[1], [1], [0]]) for r, t in parts(few, [4000] * 3)]]
    )
    assert np.abs(worth_of(empty, 2) - empty.overall / 255).max() <= 1 / 255
    assert empty.after[2] is None


def test_of_classes_that_are_alike_the_curve_of_all_is_the_best() -> None:
    share = LEVELS / 255 * 0.8
    fitted = fit_curves([parts([share] * 30, [400] * 30)])
    assert math.isinf(fitted.strength) or fitted.strength >= 1e5


def test_a_place_that_was_left_out_is_measured_with_what_the_others_teach() -> None:
    half, sure = np.full(256, 0.5), np.ones(256)
    alike = [parts([half], [400_000]) for _ in range(2)]
    found = fit_curves([*alike, parts([sure], [400_000])], strength=1e4)
    # Scores are 0 to 1 alike often, so that half of the pixels being right is 0.25 away on average.
    for place in found.places[:2]:
        assert place.before.error == pytest.approx(0.25, abs=0.01)
        # All three places together are right in two thirds; the two others in three quarters, or in a half.
        assert place.after.error == pytest.approx(2 / 3 - 0.5, abs=0.03)
        assert place.unseen is not None
        assert place.unseen.error == pytest.approx(0.75 - 0.5, abs=0.01)
    unlike = found.places[2]
    assert unlike.unseen is not None and unlike.unseen.error == pytest.approx(0.5, abs=0.01)
    assert fit_curves([alike[0]]).places[0].unseen is None


def test_a_strength_that_is_told_draws_classes_to_the_curve_of_all() -> None:
    places = [parts([np.full(256, 0.2), np.full(256, 0.9)], [100_000, 100_000])]
    apart = []
    for strength in (1e3, 1e5, 1e7, math.inf):
        fitted = fit_curves(places, strength)
        assert fitted.strength == strength
        apart.append(np.abs(worth_of(fitted, 1) - worth_of(fitted, 0)).mean())
    assert apart[0] > 0.6 and apart == sorted(apart, reverse=True) and apart[-1] == 0
    # A class's pixels against as many that follow the curve of all: half the way.
    assert apart[1] == pytest.approx(0.35, abs=0.03)


STRIPES = np.repeat(np.repeat([[0, 1, 2]], 32, axis=0), 16, axis=1)


def write_many(root: Path, images: int = 12, seed: int = 0) -> Path:
    """Write images of three fading stripes; what is dim is half mistaken, so that scores mean something."""
    random = np.random.default_rng(seed)
    labels = STRIPES
    for number in range(images):
        for folder in ("images", "labels"):
            (root / folder / "val").mkdir(parents=True, exist_ok=True)
        bright = np.linspace(1, 0.3, 32)
        seen = labels.copy()
        for top in range(0, 32, 4):
            if random.random() > bright[top]:
                seen[top : top + 4] = 1
        image = (COLOURS[seen] * bright[:, None, None]).astype(np.uint8)
        cv2.imwrite(str(root / "images" / "val" / f"{number}.png"), image)
        cv2.imwrite(str(root / "labels" / "val" / f"{number}.png"), labels.astype(np.uint8))
    (root / "classes.txt").write_text("blue\ngreen\nred\n")
    return root


def test_written_and_measured_on_other_images(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned, other = write_many(tmp_path / "learned"), write_many(tmp_path / "other", seed=1)
    calibrate = ["calibrate-confidence", "--bundle", str(bundle), "--data", str(learned)]
    was = bundle.read_bytes()
    assert evaluate([*calibrate, "--dry-run", "--json"]) == 0
    *_, shown = capsys.readouterr().out.splitlines()
    assert bundle.read_bytes() == was
    assert evaluate([*calibrate, "--json"]) == 0
    printed = capsys.readouterr()
    values = json.loads(printed.out)
    assert values == json.loads(shown) and "written: " in printed.err
    assert values["ece_with"] < values["ece_without"]
    assert set(values["classes"]) == {"blue", "green", "red"}
    with Bundle.open(bundle) as opened:
        curves = opened.confidence_curves()
    assert curves is not None and curves.learned["data"] == ["learned"]
    judge = ["--bundle", str(bundle), "--data", str(other), "--calibration", "--json"]
    assert evaluate([*judge, "--output", str(tmp_path / "run")]) == 0
    found = json.loads(capsys.readouterr().out)
    measured = found["calibration"]
    assert found["ece"] == found["reliability"]["ece"] < measured["scores"]["ece"]
    assert set(measured["ece"]) == set(measured["ece_of_scores"]) == {"blue", "green", "red"}
    page, text = (tmp_path / "run" / name for name in ("report.html", "report.md"))
    assert page.read_text().count("accuracy by confidence") == 2
    assert "ECE of scores" in page.read_text() and "| all |" in text.read_text()
    # The parts and the page are made of what was kept.
    assert evaluate(["report", str(tmp_path / "run"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["calibration"] == measured
    # What is measured is what the runtime gives.
    with Segmenter.load(bundle, classes="blue,green,red", background="none") as segmenter:
        result = segmenter.segment(cv2.imread(str(other / "images" / "val" / "0.png")))
    assert result.calibrated
    bins = {round(one["confidence"], 6) for one in found["reliability"]["bins"]}
    assert min(bins) * 255 <= result.confidence.max() and max(bins) * 255 >= result.confidence.min()


def write_walk(root: Path, right: Callable[[int], bool], images: int = 40) -> Path:
    """Write frames 0.png, 1.png, … of a walk, dim and all alike, that are right or wrong all over."""
    for number in range(images):
        seen = STRIPES if right(number) else (STRIPES + 1) % 3
        for folder, picture in (("images", COLOURS[seen] * 0.6), ("labels", STRIPES)):
            (root / folder / "val").mkdir(parents=True, exist_ok=True)
            path = root / folder / "val" / f"{number}.png"
            cv2.imwrite(str(path), picture.astype(np.uint8))
    (root / "classes.txt").write_text("blue\ngreen\nred\n")
    return root


def test_quarters_are_stretches_of_a_walk(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Quarters that lie between each other, or in the order of text (1, 10, 11, …), would know the others'.
    data = write_walk(tmp_path / "walk", lambda number: number >= 10)
    given = ["--bundle", str(bundle), "--data", str(data), "--dry-run", "--json"]
    assert evaluate(["calibrate-confidence", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    # The first quarter, all wrong, is taken for right; each other for right in 20 of 30.
    assert found["ece_with"] == pytest.approx(0.25 * 1 + 0.75 / 3, abs=0.02)


def test_what_makes_confidence_worse_is_not_written(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Scores of 0.6, right in 24 of 40: as true as can be, but each quarter is unlike the others.
    data = write_walk(tmp_path / "walk", lambda number: number < 24)
    given, was = ["--bundle", bundle, "--data", data], bundle.read_bytes()
    copy = tmp_path / "copy.dedos"
    for more in ((), ("--output", copy)):
        said = refused(capsys, *given, *more)
        assert (
            f"worse on images of {str(data)!r} that were held back" in said
            and "--allow-worse" in said
        )
        assert bundle.read_bytes() == was and not copy.exists()
    assert evaluate(["calibrate-confidence", *map(str, given), "--dry-run"]) == 0
    assert bundle.read_bytes() == was
    assert evaluate(["calibrate-confidence", *map(str, given), "--allow-worse"]) == 0
    with Bundle.open(bundle) as opened:
        assert opened.confidence_curves() is not None


def test_folders_of_several_places_are_calibrated_together(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (write_many(tmp_path / name, seed=seed) for seed, name in enumerate("ab"))
    # The second counts its classes otherwise, and has no blue.
    (second / "classes.txt").write_text("red\ngreen\n")
    for path in (second / "labels" / "val").iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.array([255, 1, 0], np.uint8)[labels])
    given = ["calibrate-confidence", "--bundle", str(bundle), "--data", str(first), str(second)]
    assert evaluate([*given, "--strength", "inf", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["strength"] is None and "ECE unseen" in printed.err
    assert [place["data"] for place in found["places"]] == [str(first), str(second)]
    assert list(found["classes"]) == ["blue", "green", "red"]
    with Bundle.open(bundle) as opened:
        curves = opened.confidence_curves()
    assert curves is not None and curves.learned["data"] == ["a", "b"]
    assert curves.learned["images"] == 24 and curves.learned["strength"] is None
    assert all((curve == curves.overall).all() for curve in curves.by_name.values())
    # Each place has what it has alone, of scores, and so have its classes.
    pixels = dict.fromkeys(found["classes"], 0)
    for place, folder in zip(found["places"], (first, second), strict=True):
        alone = ["--bundle", str(bundle), "--data", str(folder)]
        assert evaluate([*alone, "--calibration", "--json"]) == 0
        judged = json.loads(capsys.readouterr().out)["calibration"]["scores"]
        assert place["ece_without"] == pytest.approx(judged["ece"])
        assert place["pixels"] == sum(one["pixels"] for one in judged["bins"])
        assert evaluate(["calibrate-confidence", *alone, "--dry-run", "--json"]) == 0
        for name, one in json.loads(capsys.readouterr().out)["classes"].items():
            pixels[name] += one["pixels"]
    assert pixels == {name: one["pixels"] for name, one in found["classes"].items()}
    same = [*given, "--dry-run", "--json"]
    capsys.readouterr()
    assert evaluate(same) == 0 and json.loads(capsys.readouterr().out)["strength"] > 0


def test_without_the_option_records_are_as_before(
    data: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        evaluate(
            [
                "--bundle",
                str(bundle),
                "--data",
                str(data),
                "--output",
                str(tmp_path / "a"),
                "--json",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["calibration"] is None and found["ece"] == found["reliability"]["ece"]
    assert "calibration" not in (tmp_path / "a" / "images.jsonl").read_text()


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert evaluate(["calibrate-confidence", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


def test_bad_input_is_refused_in_a_sentence(
    data: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    was = bundle.read_bytes()
    given = ("--bundle", bundle, "--data")
    few = write_many(tmp_path / "few", images=4)
    assert "has 6144 pixels of known label that got a class, in 4 images" in refused(
        capsys, *given, few
    )
    assert "has 3 images, but at least 4 are needed" in refused(capsys, *given, data)
    bare = write_many(tmp_path / "bare", images=4)
    for path in (bare / "labels" / "val").iterdir():
        cv2.imwrite(str(path), np.full((32, 48), 255, np.uint8))
    assert "is labelled with one of" in refused(capsys, *given, bare)
    assert "does not exist; splits there" in refused(capsys, *given, data, "--split", "no")
    assert "embedded bundle cannot be changed" in refused(
        capsys, "--bundle", "demo", "--data", data
    )
    assert "once more, but each place counts once" in refused(
        capsys, *given, data, data.parent / "." / data.name
    )
    for strength in ("0", "0.5", "-1", "nan"):
        said = refused(capsys, *given, data, "--strength", strength)
        assert f"strength is {strength} pixels, but must be at least 1" in said
    words = save_words_file(
        tmp_path / "my.words",
        entries=["red"],
        words=["red"],
        embeddings=np.eye(3, dtype=np.float32)[:1],
        model_sha256="a" * 64,
        tuning={},
    )
    said = refused(capsys, *given, data, "--classes", words)
    assert "words of a words file have rows of their own" in said
    assert bundle.read_bytes() == was


def test_a_bad_folder_is_refused_before_another_is_measured(
    bundle: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = write_many(tmp_path / "good")
    monkeypatch.setattr(ThresholdCounts, "add", lambda *_: pytest.fail("measured"))
    given = ("--bundle", bundle, "--data", good)
    assert "nothing" in refused(capsys, *given, tmp_path / "nothing")
    assert "has 3 images" in refused(capsys, *given, data)
    assert "is not in the data" in refused(capsys, *given, "--classes", "crimson")
    (data / "classes.txt").write_text("a\nb\nc\n")
    for folder in ("images", "labels"):
        first = min((data / folder / "val").iterdir())
        first.with_name("one more.png").write_bytes(first.read_bytes())
    said = refused(capsys, *given, data, "--classes", "red,blue")
    assert "has none of red, blue, but a, b, c" in said


def test_each_folder_is_asked_for_what_it_has(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (write_many(tmp_path / name) for name in "ab")
    (first / "classes.txt").write_text("blue\ngreen\nsomething\n")
    (second / "classes.txt").write_text("something\ngreen\nred\n")
    given = ["calibrate-confidence", "--bundle", str(bundle), "--dry-run", "--json"]
    asked = ["--classes", "blue,green,red", "--data", str(first), str(second)]
    assert evaluate([*given, *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["classes"]) == ["blue", "green", "red"]
    assert [place["pixels"] for place in found["places"]] == [12 * 32 * 32] * 2


def test_curves_that_harm_one_of_several_places_are_not_written(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Scores of 0.6: right in 24 of 40 here, evenly, and always there.
    true = write_walk(tmp_path / "true", lambda number: number % 5 < 3)
    sure = write_walk(tmp_path / "sure", lambda number: True)
    given = ["--bundle", str(bundle), "--strength", "inf", "--data", str(true), str(sure)]
    said = refused(capsys, *given)
    assert f"would be worse on images of {str(true)!r} that were held back" in said
    assert evaluate(["calibrate-confidence", *given, "--allow-worse"]) == 0
    err = capsys.readouterr().err
    assert f"curves of the other places would make confidences of {str(true)!r} worse" in err
    assert f"confidences of {str(sure)!r} worse" not in err


def test_thresholds_are_calibrated_by_scores(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = write_many(tmp_path / "learned")
    other = write_bundle(tmp_path / "other.dedos")
    assert evaluate(["calibrate-confidence", "--bundle", str(bundle), "--data", str(learned)]) == 0
    found = []
    for path in (bundle, other):
        capsys.readouterr()
        words = ("calibrate-thresholds", "--bundle", str(path), "--data", str(learned), "--dry-run")
        assert evaluate([*words, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]


def test_what_is_not_asked_for_counts_neither_here_nor_in_the_measure(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_many(tmp_path / "data")
    given = ["--bundle", str(bundle), "--data", str(data), "--classes", "blue,green"]
    assert evaluate(["calibrate-confidence", *given, "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    # Scores are the same ones that the evaluation judges: of the same pixels, with the same error.
    assert evaluate([*given, "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert found["ece_without"] == pytest.approx(measured["ece"])
    pixels = sum(one["pixels"] for one in measured["reliability"]["bins"])
    assert sum(one["pixels"] for one in found["classes"].values()) == pixels


def test_a_bundle_with_tiles_is_calibrated_through_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path, data = write_bundle(tmp_path / "tiled.dedos", tiles="2x2"), write_many(tmp_path / "data")
    given = ["--bundle", str(path), "--data", str(data)]
    assert evaluate(["calibrate-confidence", *given, "--allow-worse", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    with Bundle.open(path) as opened:
        curves = opened.confidence_curves()
    assert curves is not None and curves.learned["tiles"] == "2x2"
    assert not caplog.records

    def judged(*words: str) -> dict[str, Any]:
        out = tmp_path / ("run " + " ".join(words))
        judge = [*given, "--calibration", "--no-pictures", *words, "--output", str(out), "--json"]
        assert evaluate(judge) == 0
        values: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        values["said"] = "learned with pictures looked at" in (out / "report.md").read_text()
        return values

    # The scores that curves are learned from are those that the bundle gives, and no others.
    own = judged()
    assert found["ece_without"] == pytest.approx(own["calibration"]["scores"]["ece"], abs=1e-9)
    assert not caplog.records and not own["said"]
    assert "curves_learned_through" not in own["identity"]
    for words in (("--tiles", "off"), ("--tta", "1,1.5")):
        caplog.clear()
        other = judged(*words)
        assert other["calibration"]["scores"]["ece"] != pytest.approx(
            found["ece_without"], abs=1e-4
        )
        (warned,) = caplog.records
        assert "were learned with frames looked at through tiles 2x2" in warned.getMessage()
        assert other["said"]
        assert other["identity"]["curves_learned_through"] == "tiles 2x2 and the whole"
