"""dedos-bench: stable JSON keys, numbers that agree with the cost model, and clear refusals."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "runtime"))

from tiny_bundle import write_tiny_bundle

from dedos_deploy import presets
from dedos_deploy.cli.bench import main
from dedos_deploy.head_numbers import HEADS
from dedos_deploy.presets import ClipConfig, DenseConfig, TextTowerConfig


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    values: dict[str, object] = json.loads(capsys.readouterr().out)
    return values


def test_model_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--preset", "nano", "--slots", "20", "--json"]) == 0
    small = last_json(capsys)
    assert {"macs", "macs_table7", "parameters_trained", "parameters_shipped"} <= small.keys()
    assert main(["model", "--preset", "nano", "--slots", "40", "--json"]) == 0
    large = last_json(capsys)
    assert large["macs"] > small["macs"]  # type: ignore[operator]
    assert large["parameters_shipped"] == small["parameters_shipped"]


def test_model_json_of_a_dense_clip(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--preset", "nano", "--json"]) == 0
    keys = last_json(capsys).keys()
    assert main(["model", "--preset", "dense-b", "--json"]) == 0
    values = last_json(capsys)
    assert values.keys() == keys and values["parameters_trained"] == 0
    assert 80e9 < values["macs"] < 83e9  # type: ignore[operator]


def test_model_with_the_stronger_cost_aggregation(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["model", "--preset", "paper-b", "--slots", "20", "--json"]
    assert main(line) == 0
    light = last_json(capsys)
    assert main([*line, "--cost", "catseg"]) == 0
    strong = last_json(capsys)
    parts = [values["macs_by_part"]["cost_aggregation"] for values in (light, strong)]  # type: ignore[index]
    assert strong["macs"] - light["macs"] == parts[1] - parts[0] > 5e9  # type: ignore[operator]


def test_frame_of_a_preset_with_random_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = TextTowerConfig(16, 1, 2, context_length=24)
    clip = ClipConfig("tiny", 8, 24, 3, 3, grid=4, text_width=20, text=text)
    config = DenseConfig("dense-tiny", clip, (48, 64), HEADS["maskclip"](3))
    monkeypatch.setitem(presets.DENSE_PRESETS, "dense-tiny", config)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    line = ["frame", "--preset", "dense-tiny", "--random-weights", "--frames", "1", "--json"]
    assert main([*line, "--size", "48x64", "--slots", "3"]) == 0
    values = last_json(capsys)
    assert (values["preset"], values["slots"]) == ("dense-tiny", 3)
    assert values["network_hw"] == [48, 64] and not list(tmp_path.iterdir())


def test_frame_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["frame", "--frames", "1", "--threads", "1", "--slots", "300", "--size", "48x64"]
    assert main([*arguments, "--json"]) == 0
    values = last_json(capsys)
    assert (values["preset"], values["slots"], values["frame_hw"]) == ("nano", 300, [48, 64])
    assert 0 < values["cpu_s_per_thread"] < 60  # type: ignore[operator]


def test_frame_of_a_bundle_with_tiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiled", tiles="2x2")
    line = ["frame", "--bundle", str(bundle), "--frames", "1", "--slots", "3", "--size", "90x120"]
    assert main([*line, "--json"]) == 0
    said = capsys.readouterr()
    assert "frames of 90x120 in 5 windows:" in said.err
    assert json.loads(said.out)["windows"] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "--preset", "nanoo"], "unknown preset 'nanoo', did you mean 'nano'"),
        (["model", "--preset", "nano", "--slots", "0"], "--slots is 0"),
        (["model", "--preset", "nano", "--size", "33x64"], "nearest is 32x64"),
        (
            ["model", "--preset", "nano", "--cost", "catseg"],
            "cost catseg has no effect: preset nano",
        ),
        (["model", "--cost", "light"], "give --preset paper-l or paper-b, too"),
        (["frame", "--frames", "0"], "frames is 0, but must be at least 1"),
        (["frame", "--bundle", "nowhere"], "'nowhere' does not exist"),
        (["frame", "--preset", "dense-b"], "--preset NAME and --random-weights go together"),
        (["frame", "--random-weights"], "--preset NAME and --random-weights go together"),
        (["frame", "--preset", "nano", "--random-weights", "--bundle", "demo"], "go together"),
        (["frame", "--preset", "dense-c", "--random-weights"], "did you mean 'dense-"),
    ],
)
def test_refusals(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_size_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["frame", "--size", "48"])
    assert "'48' is not a size; write HEIGHTxWIDTH" in capsys.readouterr().err
