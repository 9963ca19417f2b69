"""benchmarks/unseen_words.py: which words are asked instead, and the scores of both runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation import evaluate_bundle
from dedos_deploy.evaluation.confusion import Confusion
from dedos_deploy.scenes import class_names, render_image


@pytest.fixture(scope="module")
def script(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_script("unseen_words")


def test_words_that_were_trained_on_are_not_asked(script: ModuleType) -> None:
    renaming = script.Renaming.of(["car", "road", "kite"], ["car", "automobile", "Street"])
    assert renaming.asked == ("motorcar", "roadway", "kite")
    assert renaming.trained == (True, False, False)


def test_no_word_is_asked_twice(script: ModuleType) -> None:
    renaming = script.Renaming.of(["street", "road"], [])
    assert renaming.asked == ("street", "roadway")
    with pytest.raises(BadInputError, match="none of kite, cake has another word"):
        script.Renaming.of(["kite", "cake"], [])


def test_trained_and_untrained_classes_are_averaged_apart(script: ModuleType) -> None:
    names = script.Renaming(
        ("car", "road", "kite"), ("automobile", "road", "kite"), (True, True, False)
    )
    labels = np.array([[0, 0, 1, 1, 2, 2]], np.uint8)
    confusions = [Confusion(3), Confusion(3)]
    confusions[0].add(labels, np.array([[0, 0, 1, 1, 1, 2]], np.uint8))
    confusions[1].add(labels, np.array([[1, 0, 1, 1, 2, 2]], np.uint8))
    found = script.report(names, confusions, 0.5, 1)
    assert found["own_names"] == {
        "miou_present": pytest.approx((1 + 2 / 3 + 1 / 2) / 3, abs=1e-4),
        "miou_trained_classes": pytest.approx((1 + 2 / 3) / 2, abs=1e-4),
        "miou_untrained_classes": 0.5,
    }
    assert found["other_words"]["miou_renamed_classes"] == 0.5
    assert found["other_words"]["the_same_under_own_names"] == 1.0
    assert found["classes"]["car"] == {
        "asked": "automobile",
        "trained": True,
        "iou": 1.0,
        "iou_asked": 0.5,
    }


def test_own_names_score_as_dedos_eval_says(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = class_names("street")
    kept = ["sky", "road", "tree", "building", "car"]
    for index in range(2):
        image, labels = render_image("street", seed=300_000 + index, size_hw=(120, 160))
        renamed = np.full_like(labels, 255)
        for value, name in enumerate(kept):
            renamed[labels == names.index(name)] = value
        for part, value in (("images", image), ("labels", renamed)):
            (tmp_path / part / "val").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / part / "val" / f"{index}.png"), value)
    (tmp_path / "classes.txt").write_text("\n".join(kept) + "\n")
    assert script.main(["--data", str(tmp_path), "--json", "--threads", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = evaluate_bundle("demo", tmp_path, "val", threads=1)
    assert found["own_names"]["miou_present"] == pytest.approx(expected.miou_present, abs=1e-4)
    assert found["classes"]["car"]["asked"] == "automobile"
    assert 0 < found["agreement"] < 1 and found["images"] == 2


def test_a_wrong_folder_is_one_sentence(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--data", str(tmp_path / "none")]) == 2
    assert "unseen_words: error:" in capsys.readouterr().err
