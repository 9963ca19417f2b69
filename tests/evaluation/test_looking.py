"""Tiles and test-time augmentation in evaluations: averages by hand, what stays the same, what is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import EXPECTED
from numpy.typing import NDArray

from dedos_deploy.assets import EMBEDDED_WEIGHTS, assets_path
from dedos_deploy.cli import eval as eval_cli
from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.looking import AS_DEPLOYED, Looking, parse_augmentation, tiling_of
from dedos_deploy.evaluation.predictors import (
    Prediction,
    open_bundle_predictor,
    open_checkpoint_predictor,
)
from dedos_deploy.runtime import Engine, Segmenter
from dedos_deploy.runtime.slots import Thresholds
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.scenes import render_image
from dedos_deploy.spec import GraphSpec
from dedos_deploy.tiles import Grid
from dedos_deploy.vocabulary import parse_vocabulary

COLOURS = parse_vocabulary("blue,green,red")
FRAME = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


class Fixed(Engine):
    """Scores that do not depend on the picture: `first`, [2, 8, 12], then `others` for every further run."""

    spec = GraphSpec(32, 48, 2)

    def __init__(self, first: NDArray[np.float32], others: NDArray[np.float32]) -> None:
        self._first, self._others, self.runs_done = first, others, 0

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.runs_done += 1
        return {"scores": (self._first if self.runs_done == 1 else self._others)[None]}

    def close(self) -> None:
        """Nothing is held."""


def scores_of(engine: Engine, looking: Looking) -> NDArray[np.float32]:
    """Return the scores [2, h, w] that FRAME is labelled by."""
    with Segmenter(
        engine,
        lambda words, **_: np.eye(2, dtype=np.float32),
        classes=["a", "b"],
        thresholds=Thresholds({}, 0.0, enabled=False),
        tiling=looking.tiling(Tiling()),
        explain=True,
        threads=1,
    ) as segmenter:
        evidence = segmenter.segment(FRAME).evidence
    assert evidence is not None
    return evidence.scores


def planes(a: object, b: object) -> NDArray[np.float32]:
    """Two planes of 8x12 cells of numbers, or of one row that all rows repeat."""
    return np.stack([np.broadcast_to(np.asarray(one, np.float32), (8, 12)) for one in (a, b)])


def test_a_mirrored_look_is_mirrored_back_and_averaged() -> None:
    ramp = np.arange(12) / 16
    engine = Fixed(planes(ramp, 0.25), planes(ramp, 0.75))
    found = scores_of(engine, Looking(flips=True))
    assert engine.runs_done == 2
    # Of the two looks at column c: c/16, and of the mirror (11 - c)/16.
    np.testing.assert_allclose(found, planes(11 / 32, 0.5), atol=1e-6)


def test_every_scale_has_the_same_say() -> None:
    engine = Fixed(planes(1.0, 0.0), planes(0.5, 0.25))
    found = scores_of(engine, Looking(scales=(1.0, 2.0)))
    # At 2 there are windows of half the sides, three along each axis.
    assert engine.runs_done == 1 + 9
    assert found.shape == (2, 16, 24)
    np.testing.assert_allclose(found[0], 0.75, atol=1e-6)
    np.testing.assert_allclose(found[1], 0.125, atol=1e-6)
    alone = Fixed(planes(0.5, 0.25), planes(0.5, 0.25))
    np.testing.assert_allclose(scores_of(alone, Looking(scales=(2.0,)))[1], 0.25, atol=1e-6)
    assert alone.runs_done == 9, "without tiles and scale 1 nobody asked for the whole"


def predicted(bundle: Path, looking: Looking, frame: NDArray[np.uint8] = FRAME) -> Prediction:
    with open_bundle_predictor(bundle, COLOURS, looking=looking, threads=1) as predictor:
        return predictor.predict(frame)


def scores(prediction: Prediction) -> NDArray[Any]:
    assert prediction.evidence is not None
    return prediction.evidence.scores


def test_one_look_is_the_plain_result_bit_for_bit(bundle: Path) -> None:
    plain = predicted(bundle, AS_DEPLOYED)
    small = FRAME[:30, :40].copy()
    for looking, frame in ((Looking("off", (1.0,)), FRAME), (Looking("auto"), small)):
        found, expected = predicted(bundle, looking, frame), predicted(bundle, AS_DEPLOYED, frame)
        assert np.array_equal(scores(found), scores(expected))
        assert np.array_equal(found.ids, expected.ids)
        assert found.confidence is not None and expected.confidence is not None
        assert np.array_equal(found.confidence, expected.confidence)
    assert scores(plain).shape == (3, 8, 12)


def test_a_model_that_knows_no_side_says_the_same_in_the_mirror(bundle: Path) -> None:
    """The graph looks at each cell alone."""
    plain, both = predicted(bundle, AS_DEPLOYED), predicted(bundle, Looking(flips=True))
    np.testing.assert_allclose(scores(both), scores(plain), atol=1e-6)
    assert (both.ids == plain.ids).mean() > 0.999
    mirrored = FRAME[:, ::-1].copy()
    for looking in (Looking(flips=True), Looking(Grid(2, 2), flips=True)):
        found, other = (scores(predicted(bundle, looking, one)) for one in (FRAME, mirrored))
        np.testing.assert_allclose(found, other[:, :, ::-1], atol=1e-6)


def test_a_checkpoint_looks_as_its_bundle_does() -> None:
    """The embedded bundle holds the embedded weights in half precision."""
    pytest.importorskip("torch")
    words = parse_vocabulary("road,car,building,sky,tree")
    picture, _ = render_image("street", seed=7, size_hw=(150, 200))
    looking = Looking(flips=True)
    with (
        open_bundle_predictor("demo", words, looking=looking, threads=1) as bundle,
        open_checkpoint_predictor(
            assets_path(EMBEDDED_WEIGHTS), words, looking=looking, threads=1
        ) as checkpoint,
    ):
        assert (bundle.predict(picture).ids == checkpoint.predict(picture).ids).mean() > 0.99
        assert bundle.identity["tiling"] == checkpoint.identity["tiling"]
        assert tiling_of(bundle.identity) == Tiling(flips=True)
        assert str(tiling_of(bundle.identity)) == "mirror images"


def test_tiles_of_a_bundle_stay_under_augmentation() -> None:
    own = Tiling(Grid(1, 2))
    assert AS_DEPLOYED.tiling(own) == own and AS_DEPLOYED.tiling(Tiling()).is_off
    assert Looking("off").tiling(own).is_off
    assert Looking(flips=True).tiling(own) == Tiling(Grid(1, 2), flips=True)
    both = Looking("auto", (1.0, 1.5)).tiling(own)
    assert both == Tiling("auto", scales=(1.0, 1.5)) and both.whole
    assert not Looking(scales=(1.5,)).tiling(Tiling()).whole
    assert Looking("auto", (1.0, 1.5), True).named == ("tiles auto", "tta 1 1.5 flip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "--tta 1 shows every picture once as it is"),
        ("1,1.0", "--tta 1 shows every picture once as it is"),
        ("0.5,1,flip", "scale 0.5 of --tta cannot be shown: .* give scales from 1 to 8"),
        ("9", "scale 9 of --tta cannot be shown"),
        ("nan", "scale nan of --tta cannot be shown"),
        ("1,1.001", "scales 1 and 1.001 show nearly the same, .*; give scales that are 5 % apart"),
        ("1.02,flip", "scales 1 and 1.02 show nearly the same"),
        ("1,2,2.0000001", "scales 2 and 2.0000001 show nearly the same"),
        ("flop", "--tta 'flop' is no augmentation; write scales such as 1,1.25,1.5, flip, or both"),
        ("", "--tta '' is no augmentation"),
    ],
)
def test_augmentations_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        parse_augmentation(text)


def test_a_report_tells_how_it_was_looked(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> dict[str, Any]:
        assert eval_cli.main([*map(str, words), "--json"]) == 0
        values: dict[str, Any] = json.loads(capsys.readouterr().out)
        return values

    out, given = tmp_path / "out", ("--bundle", bundle, "--data", data, "--no-pictures")
    values = run(*given, "--tiles", "1x2", "--tta", "1,1.5,flip", "--output", out)
    assert values["iou"] == pytest.approx(EXPECTED, abs=0.02)
    assert values["identity"]["tiling"] == {
        "tiles": "1x2",
        "whole": True,
        "scales": [1.0, 1.5],
        "flips": True,
    }
    assert values["predictor"] == "colours, tiles 1x2, tta 1 1.5 flip"
    said = "through tiles 1x2 and the whole, scales 1, 1.5, mirror images; scores averaged"
    for name in ("report.md", "report.html"):
        assert said in (out / name).read_text()
    again = run(*given, "--tiles", "1x2", "--tta", "1,1.5,flip", "--output", out, "--resume")
    assert again["iou"] == values["iou"]
    assert eval_cli.main([*map(str, given), "--output", str(out), "--resume"]) == 2
    assert "choose another --output" in capsys.readouterr().err
    plain = run(*given, "--output", tmp_path / "plain")
    assert plain["predictor"] == "colours" and "tiling" not in plain["identity"]
    found = run("--compare", tmp_path / "plain", out)["comparisons"][0]
    assert (found["first"], found["second"]) == (plain["predictor"], values["predictor"])


def test_looks_that_show_nothing_of_their_own_are_said(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pictures are as large as the network, and 1x1 is the whole of any."""
    given = ["--bundle", str(bundle), "--data", str(data), "--no-pictures"]
    for tiles in ("auto", "1x1"):
        out = tmp_path / tiles
        assert eval_cli.main([*given, "--tiles", tiles, "--output", str(out)]) == 0
        said = f"tiles {tiles} changed nothing in 2 of 2 pictures"
        assert f"warning: colours, tiles {tiles}: {said}" in capsys.readouterr().err
        assert said in (out / "report.md").read_text()
    for words in (["--tiles", "2x2"], ["--tiles", "off"], ["--tta", "1,1.5,flip"], []):
        assert eval_cli.main([*given, *words]) == 0
        assert "changed nothing" not in capsys.readouterr().err


def test_looks_that_nobody_takes_are_refused(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: object) -> str:
        assert eval_cli.main([str(word) for word in words]) == 2
        return capsys.readouterr().err

    net, words = tmp_path / "net.onnx", tmp_path / "words.json"
    words.write_text('{"words": ["red"]}')
    alone = ("--net", net, "--net-words", words, "--data", data)
    assert "--tiles says how bundles and checkpoints look" in refused(*alone, "--tiles", "auto")
    kept: list[Path] = []
    for name in ("a", "b"):
        kept.append(tmp_path / name)
        given = ["--bundle", bundle, "--data", data, "--output", kept[-1], "--no-pictures"]
        assert eval_cli.main([str(word) for word in given]) == 0
    capsys.readouterr()
    assert "--tta says how bundles and checkpoints look" in refused("--compare", *kept, "--tta")
    given = ["--bundle", bundle, "--data", data]
    assert "--tta 1 shows every picture once" in refused(*given, "--tta", "1")
