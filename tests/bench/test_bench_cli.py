"""dedos-bench: stable JSON keys, numbers that agree with the cost model, and clear refusals."""

from __future__ import annotations

import json

import pytest

from dedos_deploy.cli.bench import main


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    values: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return values


def test_model_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--preset", "nano", "--slots", "20", "--json"]) == 0
    small = last_json(capsys)
    assert {"macs", "macs_table7", "parameters_trained", "parameters_shipped"} <= small.keys()
    assert main(["model", "--preset", "nano", "--slots", "40", "--json"]) == 0
    large = last_json(capsys)
    assert large["macs"] > small["macs"]  # type: ignore[operator]
    assert large["parameters_shipped"] == small["parameters_shipped"]


def test_frame_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["frame", "--frames", "1", "--threads", "1", "--slots", "300", "--size", "48x64"]
    assert main([*arguments, "--json"]) == 0
    values = last_json(capsys)
    assert (values["preset"], values["slots"], values["frame_hw"]) == ("nano", 300, [48, 64])
    assert 0 < values["cpu_s_per_thread"] < 60  # type: ignore[operator]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "--preset", "nanoo"], "unknown preset 'nanoo', did you mean 'nano'"),
        (["model", "--preset", "nano", "--slots", "0"], "--slots is 0"),
        (["model", "--preset", "nano", "--size", "33x64"], "nearest is 32x64"),
        (["frame", "--frames", "0"], "frames is 0, but must be at least 1"),
        (["frame", "--bundle", "nowhere"], "'nowhere' does not exist"),
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
