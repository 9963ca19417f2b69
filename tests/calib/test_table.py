"""The calibration table: written whole, read strictly, used only for what it was made for."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedos_deploy.calib import table as table_module
from dedos_deploy.calib.collect import (
    CalibrationInputs,
    Resume,
    channel_maxima,
    collect_histograms,
)
from dedos_deploy.calib.ranges import RangeOptions
from dedos_deploy.calib.table import (
    CalibrationKey,
    CalibrationTable,
    calibration_key,
    model_sha256,
    reuse_or_none,
)
from dedos_deploy.errors import BadInputError, SinkError, UnsupportedVersionError

OPTIONS = RangeOptions("percentile", percentile=99.9)


@pytest.fixture
def model(inputs: CalibrationInputs, tmp_path: Path) -> Path:
    assert isinstance(inputs.model, onnx.ModelProto)
    path = tmp_path / "model.onnx"
    onnx.save(inputs.model, os.fspath(path))
    return path


@pytest.fixture
def key(inputs: CalibrationInputs, model: Path) -> CalibrationKey:
    return calibration_key(
        model, tuple(inputs.frames), inputs.text, OPTIONS, smoothing={"smoothing": 0.5}
    )


@pytest.fixture
def table(inputs: CalibrationInputs, key: CalibrationKey) -> CalibrationTable:
    histograms = collect_histograms(inputs, ["features", "scores"], threads=1)
    maxima = channel_maxima(inputs, ["features"], threads=1)
    return CalibrationTable.of(key, histograms, OPTIONS, source="drive.mp4", channel_maxima=maxima)


def test_what_is_written_is_read_back_exactly(table: CalibrationTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    assert CalibrationTable.load(path) == table
    assert 0 < table.ranges["features"] < table.maxima["features"]
    assert max(table.channel_maxima["features"]) == table.maxima["features"]
    table.save(path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.onnx", "table.json"]


def test_the_file_can_be_read_by_people(table: CalibrationTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    lines = path.read_text().splitlines()
    assert '    "estimator": "percentile",' in lines
    assert f'    "features": {table.ranges["features"]!r},' in lines
    # One line for all channels of a tensor.
    assert sum("features" in line for line in lines) == 3
    without = replace(table, channel_maxima={})
    without.save(path)
    assert CalibrationTable.load(path) == without


def test_the_same_key_is_reused(
    table: CalibrationTable,
    key: CalibrationKey,
    inputs: CalibrationInputs,
    model: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "table.json"
    assert reuse_or_none(path, key) is None
    table.save(path)
    reordered = tuple(reversed(inputs.frames))
    again = calibration_key(model, reordered, inputs.text, OPTIONS, smoothing={"smoothing": 0.5})
    assert reuse_or_none(path, again) == table
    # The version of ONNX Runtime is for the record.
    replace(table, onnxruntime="0.1").save(path)
    assert reuse_or_none(path, again) is not None


CHANGES: dict[str, tuple[Any, str]] = {
    "model_sha256": ("0" * 64, "is for another model: its model_sha256 is .*, not 000000000000…"),
    "preprocessing": ("none", "is for another preprocessing: .* not 'none'"),
    "data_sha256": ("1" * 64, "is for other frames: its data_sha256 is"),
    "frames": (64, "is for another number of frames: its frames is 11, not 64"),
    "text_sha256": ("2" * 64, "is for another vocabulary"),
    "estimator": ("mse", "is for another estimator: its estimator is 'percentile', not 'mse'"),
    "parameters": ({"percentile": 99.0}, "is for other parameters"),
}


@pytest.mark.parametrize("name", [each.name for each in fields(CalibrationKey)])
def test_another_key_is_refused_by_name(
    table: CalibrationTable, key: CalibrationKey, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    value, message = CHANGES[name]
    changed = replace(key, **{name: value})
    assert changed.sha256 != key.sha256
    with pytest.raises(BadInputError, match=f"table.json' {message}.*remove it or name another"):
        reuse_or_none(path, changed)
    # What the message says.
    path.unlink()
    assert reuse_or_none(path, changed) is None


def test_the_key_follows_what_it_is_made_of(
    key: CalibrationKey, inputs: CalibrationInputs, model: Path
) -> None:
    frames = tuple(inputs.frames)

    def made(**changes: Any) -> CalibrationKey:
        given = {"frames": frames, "text_embeddings": inputs.text, "options": OPTIONS} | changes
        return calibration_key(model, **given, smoothing={"smoothing": 0.5})

    assert made() == key and made().sha256 == key.sha256
    assert made(frames=frames[1:]).data_sha256 != key.data_sha256
    assert made(text_embeddings=inputs.text[::-1].copy()).text_sha256 != key.text_sha256
    assert made(options=RangeOptions("max")).parameters == {"smoothing": 0.5}
    before = model_sha256(model)
    model.with_name("model.onnx.data").write_bytes(b"weights")
    assert model_sha256(model).startswith(before + "+")
    model.write_bytes(model.read_bytes() + b"\0")
    assert made().model_sha256 != key.model_sha256


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown": (lambda r: r.update(rangs={}), "unknown key 'rangs', did you mean 'ranges'"),
    "unknown in key": (lambda r: r["key"].update(seed=1), "unknown key 'key.seed'"),
    "missing": (lambda r: r.pop("max"), "key 'max' is missing"),
    "missing in key": (lambda r: r["key"].pop("frames"), "key 'key.frames' is missing"),
    "text": (lambda r: r["ranges"].update(features="3"), "'ranges.features' .* number, not '3'"),
    "boolean": (lambda r: r["ranges"].update(features=True), "'ranges.features' .*, not True"),
    "negative": (lambda r: r["ranges"].update(features=-1.0), "'features' has range -1 and max"),
    "NaN": (lambda r: r["ranges"].update(features=float("nan")), "NaN is not a JSON number"),
    "infinite": (lambda r: r["max"].update(features=float("inf")), "Infinity is not a JSON"),
    "too large": (lambda r: r["ranges"].update(features=1e9), "'features' has range 1e.09 and max"),
    "no max": (lambda r: r["max"].pop("features"), "'features' needs both a range and a max"),
    "list": (lambda r: r.update(ranges=[1.0]), "'ranges' must be an object, not a list"),
    "channels": (lambda r: r["channel_max"].update(features=[1, -1]), "'features' .* negative"),
    "no channels": (lambda r: r["channel_max"].update(features=3.0), "features' must be a list"),
    "hash": (
        lambda r: r["key"].update(data_sha256="abc"),
        "'key.data_sha256' .* SHA-256, not 'abc",
    ),
    "estimator": (lambda r: r["key"].update(estimator="kl"), "'key.estimator' .*'max', .*not 'kl'"),
    "half a frame": (lambda r: r["key"].update(frames=1.5), "'key.frames' must be a whole number"),
    "format": (lambda r: r.update(format=0), "'format' must be one of 1, not 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_is_named(table: CalibrationTable, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    change, message = FAULTS[fault]
    _edit(path, change)
    with pytest.raises(BadInputError, match=f"{message}.*; remove it to calibrate") as caught:
        CalibrationTable.load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_table_is_named(table: CalibrationTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(damaged)
        with pytest.raises(BadInputError, match="table.json': .*; remove it to calibrate"):
            CalibrationTable.load(path)
    path.write_bytes(content.replace(b'"format": 1', b'"format": 1, "format": 1'))
    with pytest.raises(BadInputError, match="has the key 'format' twice"):
        CalibrationTable.load(path)
    path.write_bytes(b"[]")
    with pytest.raises(BadInputError, match="table.json': must hold one JSON object"):
        CalibrationTable.load(path)
    with pytest.raises(BadInputError, match="cannot be read: Is a directory"):
        CalibrationTable.load(tmp_path)


def test_a_newer_format_is_told_from_damage(table: CalibrationTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    _edit(path, lambda record: record.update(format=2, more="fields"))
    with pytest.raises(UnsupportedVersionError, match="'format' is 2, but .* or remove the table"):
        CalibrationTable.load(path)


@given(st.binary(max_size=8), st.floats(0.0, 0.999))
@settings(max_examples=60, deadline=None)
def test_no_damage_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: float
) -> None:
    key = CalibrationKey("0" * 64, "none", "1" * 64, 16, "2" * 64, "mse", {})
    path = tmp_path_factory.mktemp("fuzz") / "table.json"
    CalibrationTable(key, {"x": 1.0}, {"x": 2.0}, "a", "1.0").save(path)
    content = path.read_bytes()
    at = int(place * len(content))
    path.write_bytes(content[:at] + noise + content[at + len(noise) :])
    with contextlib.suppress(BadInputError, UnsupportedVersionError):
        CalibrationTable.load(path)


@pytest.mark.parametrize("amax", [-1.0, float("nan"), float("inf"), 3.0])
def test_ranges_that_are_none_are_refused(table: CalibrationTable, amax: float) -> None:
    with pytest.raises(BadInputError, match="'x' has range .*a range is finite, not negative"):
        replace(table, ranges={"x": amax}, maxima={"x": 2.0})
    with pytest.raises(BadInputError, match="'y' has a maximum per channel that is negative"):
        replace(table, channel_maxima={"y": (1.0, -amax if amax > 0 else amax)})


def test_a_full_disk_keeps_the_old_table(
    table: CalibrationTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.json"
    table.save(path)
    old = path.read_bytes()

    def full(source: object, dest: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dedos_deploy.files.os.replace", full)
    with pytest.raises(SinkError, match="table.json' cannot be written .No space left.*make room"):
        replace(table, source="elsewhere").save(path)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert sorted(item.name for item in tmp_path.iterdir()) == ["model.onnx", "table.json"]


def test_partial_states_go_when_the_table_is_there(
    table: CalibrationTable, inputs: CalibrationInputs, tmp_path: Path
) -> None:
    path = tmp_path / "table.json"
    resume = Resume(path, table.key.sha256)
    channel_maxima(inputs, ["features"], threads=1, resume=resume)
    collect_histograms(inputs, ["features"], threads=1, resume=resume)
    other = tmp_path / "table.json2.maxima.partial"
    other.touch()
    assert len(list(tmp_path.glob("table.json.*.partial"))) == 2
    table.save(path)
    assert list(tmp_path.glob("*.partial")) == [other]


def test_zero_ranges_are_kept(table: CalibrationTable, tmp_path: Path) -> None:
    """A tensor that is never anything but zero has no scale; who places nodes must know."""
    dead = replace(table, ranges={"x": 0.0}, maxima={"x": 0.0})
    dead.save(tmp_path / "table.json")
    assert CalibrationTable.load(tmp_path / "table.json").ranges == {"x": 0.0}
    assert table_module.FORMAT == 1 and np.isfinite(list(dead.ranges.values())).all()


def test_a_source_of_odd_characters_is_read_back(
    inputs: CalibrationInputs, key: CalibrationKey, tmp_path: Path
) -> None:
    histograms = collect_histograms(inputs, ["features"], threads=1)
    odd = CalibrationTable.of(key, histograms, OPTIONS, source="dri\nve.mp4")
    odd.save(tmp_path / "table.json")
    assert CalibrationTable.load(tmp_path / "table.json").source == r"'dri\nve.mp4'"
