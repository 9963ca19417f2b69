"""What benchmarks/tiles.py says is what the same records say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from colours import EXPECTED

from dedos_deploy.scenes import render_image

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import tiles  # noqa: E402  (a script, found by its folder)


def test_ways_stand_beside_the_whole(
    bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "--data",
        str(data),
        "--bundle",
        str(bundle),
        "--tiles",
        "auto",
        "2x2",
        "--tta",
        "flip",
    ]
    assert tiles.main([*given, "--thin", "green,red", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    ways = report["ways"]
    assert list(ways) == ["whole", "tiles auto", "tiles 2x2", "tta flip"]
    assert ways["whole"]["iou"] == pytest.approx(EXPECTED, abs=0.02)
    assert ways["whole"]["thin_miou"] == pytest.approx((EXPECTED["green"] + 1) / 2, abs=0.02)
    assert [way["runs_per_picture"] for way in ways.values()] == [1, 1, 5, 2]
    assert report["pictures"] == 3 and report["sizes"] == ["32x48"]
    for way in list(ways.values())[1:]:
        assert way["ms_ratio"] > 0
        gain = way["miou"] - ways["whole"]["miou"]
        assert way["miou_gain"]["difference"] == pytest.approx(gain, abs=1e-4)
        assert way["thin_gain"]["low"] <= way["thin_gain"]["difference"] <= way["thin_gain"]["high"]
    assert ways["tiles auto"]["miou_gain"]["difference"] == 0.0
    assert tiles.main([*given, "--images", "1"]) == 0
    assert "1 pictures of data/val (32x48)" in capsys.readouterr().out
    assert tiles.main([*given, "--thin", "purple"]) == 2
    assert "--thin 'purple' is no class of data/val" in capsys.readouterr().err
    assert tiles.main(["--scenes", "1", "--thin", "polle"]) == 2
    assert "--thin 'polle' is no class of scenes 1920x1080" in capsys.readouterr().err


def test_scenes_have_the_labels_that_they_were_drawn_with() -> None:
    scenes = tiles.Scenes(2, (32, 48))
    image, labels = render_image("street", seed=tiles.FIRST_SEED + 1, size_hw=(32, 48), samples=3)
    found = scenes.image(1)
    assert np.array_equal(found.image_bgr, image) and np.array_equal(found.labels, labels)
    assert scenes.classes == scenes.vocabulary.names and len(scenes.image_names) == 2
    assert found.labels.max() < len(scenes.classes) <= scenes.ignore
