"""The manifest is read strictly: each wrong field is named, with what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dedos_deploy.bundle import FORMAT_VERSION, Manifest, created_now
from dedos_deploy.errors import BadBundleError, UnsupportedVersionError

HASH = "ab" * 32
FILES = dict.fromkeys(("model.onnx", "text_encoder.onnx", "tokenizer.json"), HASH)


@pytest.fixture
def values(manifest: Manifest) -> dict[str, Any]:
    files = {**FILES, "vocabularies/base.safetensors": HASH}
    complete = replace(manifest, files=files, vocabularies=["base"])
    parsed: dict[str, Any] = json.loads(complete.to_json())
    return parsed


def change(values: dict[str, Any], path: str, value: object) -> str:
    *parents, last = path.split("/")
    target: Any = values
    for key in parents:
        target = target[int(key) if isinstance(target, list) else key]
    target[int(last) if isinstance(target, list) else last] = value
    return json.dumps(values)


def test_survives_a_round_trip(manifest: Manifest) -> None:
    files = {**FILES, "vocabularies/base.safetensors": HASH}
    complete = replace(manifest, files=files, vocabularies=["base"], created=created_now())
    assert Manifest.from_json(complete.to_json()) == complete


def test_tiles_are_written_only_where_there_are_some(values: dict[str, Any]) -> None:
    """So that versions before tiles read all other bundles."""
    assert "tiles" not in values
    plain = Manifest.from_json(json.dumps(values))
    assert plain.tiles == "off"
    tiled = replace(plain, tiles="2x3")
    assert json.loads(tiled.to_json())["tiles"] == "2x3"
    assert Manifest.from_json(tiled.to_json()) == tiled


def test_a_whole_number_is_a_number(values: dict[str, Any]) -> None:
    read = Manifest.from_json(change(values, "default_threshold", 1))
    assert read.default_threshold == 1.0 and type(read.default_threshold) is float


def test_time_may_end_in_z(values: dict[str, Any]) -> None:
    assert Manifest.from_json(change(values, "created", "2026-01-02T03:04:05Z"))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("preset", 7, "'preset' must be a string, not 7"),
        ("preset", "edge-b", "'preset' is 'edge-b', but 'config.preset' is 'nano'"),
        ("spec", [], "'spec' must be an object, not a list"),
        ("spec/height", "240", "'spec.height' must be a whole number, not '240'"),
        ("spec/height", True, "'spec.height' must be a whole number, not True"),
        ("spec/height", 241, "'spec.height' and 'spec.width' do not fit: .*nearest is 240x320"),
        ("spec/batch", 0, "'spec.batch' must be at least 1, not 0"),
        ("spec/text_width", 512, "'spec.text_width' is 512, but 'config.clip.text_width' is 384"),
        ("spec/score_dtype", "uint8", "'spec.score_dtype' must be 'float32' or 'float16'"),
        ("spec/width", 10**20, "'spec.width' must be a whole number up to 2147483647"),
        ("config/size_hw/1", 3.5, r"'config.size_hw\[1\]' must be a whole number, not 3.5"),
        ("config/size_hw", [240], "'config.size_hw' must have 2 values, not 1"),
        ("config/size_hw", [240, 321], "'config' is not usable: size 240x321 does not fit"),
        ("config/clip/patch", 0, "'config' is not usable: clip.patch must be at least 1"),
        ("config/clip/text/layers", None, "'config.clip.text.layers' must be a whole number"),
        ("config/clip/widht", 3, "unknown key 'config.clip.widht', did you mean 'width'?"),
        ("config/pixel_decoder", "unet", "'config.pixel_decoder' must be one of 'msdeform', 'fpn'"),
        ("target", "tpu", "'target' must be one of 'cpu', 'rtx', 'trt', 'cuda', not 'tpu'"),
        ("precision/image", "fp8", "'precision.image' must be one of 'fp32', 'fp16', 'int8'"),
        ("activation", "quick_gelu", "'activation' is 'quick_gelu', but 'config.clip.activation'"),
        ("templates", [], "'templates' must hold at least one"),
        ("templates/0", "a photo", r"'templates\[0\]' must have one {} for the word"),
        ("context_length", 77, "'context_length' is 77, but"),
        ("thresholds/car", 1.5, r"'thresholds.car' must lie in \[0, 1\], not 1.5"),
        ("thresholds/car", "high", "'thresholds.car' must be a finite number, not 'high'"),
        ("default_threshold", -1, "'default_threshold' must lie in"),
        ("checkpoint_sha256", "12", "'checkpoint_sha256' must be a SHA-256 in hexadecimal"),
        ("calibration_hash", "", "'calibration_hash' must be a SHA-256 in hexadecimal"),
        ("created", "yesterday", "'created' must be an ISO 8601 time"),
        ("created", "2026-01-02T03:04:05", "'created' must be an ISO 8601 time with its offset"),
        ("licence", "two\nlines", "'licence' must be printable text on one line"),
        ("sources/0", 1, r"'sources\[0\]' must be a string, not 1"),
        ("tools/onnx", 1.16, "'tools.onnx' must be a string, not 1.16"),
        ("vocabularies/0", "other", "does not list 'vocabularies/other.safetensors'"),
        ("vocabularies/0", "../base", r"'vocabularies\[0\]' must be a new plain name"),
        ("vocabularies", ["base", "base"], r"'vocabularies\[1\]' must be a new plain name"),
        ("base_vocabulary", "other", "'base_vocabulary' is 'other', which 'vocabularies' does not"),
        ("files/model.onnx", "AB" * 32, "'files.model.onnx' must be a SHA-256 in hexadecimal"),
        ("tiles", 3, "'tiles' must be a string, not 3"),
        ("tiles", "2*3", r"'tiles' is not usable: '2\*3' are no tiles"),
        ("tiles", "181", "'tiles' is not usable: tiles 181 are a stride longer than 180 pixels"),
        ("files/..", HASH, r"'files' lists '\.\.', which cannot be the name"),
        ("files/manifest.json", HASH, "'files' lists 'manifest.json', which cannot be"),
        ("files/Model.onnx", HASH, r"ambiguous: 'Model.onnx' comes twice \(as 'model.onnx'\)"),
        ("presett", "nano", "unknown key 'presett', did you mean 'preset'?"),
        ("format_version", 0, "'format_version' must be one of 1, not 0"),
        ("format_version", "1", "'format_version' must be one of 1, not '1'"),
    ],
)
def test_names_the_wrong_field(
    values: dict[str, Any], path: str, value: object, message: str
) -> None:
    with pytest.raises(BadBundleError, match=message) as caught:
        Manifest.from_json(change(values, path, value))
    assert str(caught.value).startswith("manifest.json: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["/model.onnx", "a//b", "a/../b", "a\\b", "c:x", ".hidden", "é"])
def test_refuses_unsafe_file_names(values: dict[str, Any], name: str) -> None:
    values["files"][name] = HASH
    with pytest.raises(BadBundleError, match=re.escape(f"lists {name!r}")):
        Manifest.from_json(json.dumps(values))


def test_a_file_cannot_be_a_folder_too(values: dict[str, Any]) -> None:
    values["files"]["model.onnx/data"] = HASH
    with pytest.raises(BadBundleError, match="lies in 'model.onnx', which is a file"):
        Manifest.from_json(json.dumps(values))


def test_every_key_must_be_there(values: dict[str, Any]) -> None:
    for name in values:
        rest = {key: value for key, value in values.items() if key != name}
        expected = (
            "'format_version' must be" if name == "format_version" else f"'{name}' is missing"
        )
        with pytest.raises(BadBundleError, match=expected):
            Manifest.from_json(json.dumps(rest))
    del values["config"]["clip"]["text"]["heads"]
    with pytest.raises(BadBundleError, match=r"key 'config\.clip\.text\.heads' is missing"):
        Manifest.from_json(json.dumps(values))


def test_a_newer_format_asks_for_an_upgrade(values: dict[str, Any]) -> None:
    values["format_version"] = FORMAT_VERSION + 1
    values["something_new"] = 1
    del values["preset"]
    with pytest.raises(UnsupportedVersionError, match="install a newer dedos-deploy here"):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:-3], "is not valid JSON .* at line"),
        (lambda text: "[" * 100_000, "nested too deeply|not valid JSON"),
        (lambda text: "[1]", "must hold one JSON object"),
        (lambda text: text.replace("0.3", "NaN"), "NaN is not a JSON number"),
        (lambda text: text.replace("0.3", "1e999"), "'default_threshold' must be a finite number"),
        (lambda text: text.replace("240", "9" * 5000, 1), "a number is too long|whole number up"),
        (lambda text: text.replace('"preset"', '"target"', 1), "has the key 'target' twice"),
    ],
)
def test_refuses_what_json_leaves_open(
    values: dict[str, Any], edit: Callable[[str], str], message: str
) -> None:
    with pytest.raises(BadBundleError, match=message):
        Manifest.from_json(edit(json.dumps(values)))


def test_writing_checks_as_reading_does(manifest: Manifest) -> None:
    with pytest.raises(BadBundleError, match="'files' does not list 'model.onnx'"):
        manifest.to_json()
    with pytest.raises(BadBundleError, match="cannot be stored as JSON"):
        replace(manifest, default_threshold=float("nan")).to_json()
