"""Configurations of dense CLIPs as JSON: they come back the same, and what is wrong is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dedos_deploy.bundle import Manifest
from dedos_deploy.config_json import WRITTEN_LATER, any_config_from_dict, config_from_dict
from dedos_deploy.errors import BadBundleError, BadInputError
from dedos_deploy.head_numbers import HEADS, MOST_WINDOWS, WindowConfig
from dedos_deploy.presets import DENSE_PRESETS, PRESETS, DenseConfig
from dedos_deploy.spec import GraphSpec

FULL = replace(
    DENSE_PRESETS["dense-b"],
    windows=WindowConfig(224, 112),
    null_words=("sky", "wall"),
    null_limit=0.9,
)


def stored(config: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(config.to_dict()))
    return values


@pytest.mark.parametrize("name", [*PRESETS, *DENSE_PRESETS])
def test_every_preset_comes_back(name: str) -> None:
    config = (PRESETS | DENSE_PRESETS)[name]
    assert any_config_from_dict(stored(config)) == config


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_comes_back_by_its_kind(kind: Any) -> None:
    config = replace(FULL, head=HEADS[kind](12))
    found = any_config_from_dict(stored(config))
    assert found == config and isinstance(found, DenseConfig)
    assert (found.null_words, found.windows) == (("sky", "wall"), WindowConfig(224, 112))


def test_a_checkpoint_cannot_be_a_dense_clip() -> None:
    with pytest.raises(BadInputError, match="not of a DEDOS model"):
        config_from_dict(stored(FULL))


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    values = stored(FULL)
    change(values)
    return values


CHANGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (lambda v: v["head"].update(kind="dino"), "'config.head.kind' must be one of 'sc-clip', 'na"),
    (lambda v: v["head"].pop("kind"), "'config.head.kind' must be one of"),
    (lambda v: v.update(head=3), "'config.head' must be an object, not 3"),
    (lambda v: v["head"].update(cuts=1), "unknown key 'config.head.cuts', did you mean"),
    (lambda v: v["head"].update(neighbours=0), "at least 1 neighbour"),
    (lambda v: v["head"].update(quantile=1.0), r"a quantile in \(0, 1\)"),
    (lambda v: v["head"].update(kind="naclip"), "unknown key 'config.head.similar'"),
    (lambda v: v["windows"].update(stride=0), "must be SIZE/STRIDE"),
    (lambda v: v["windows"].update(stride=4), f"at most {MOST_WINDOWS} are allowed"),
    (lambda v: v.update(null_words="sky"), "'config.null_words' must be a list"),
    (lambda v: v.update(tau=0), "tau must lie in"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_what_is_wrong_is_named(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        any_config_from_dict(changed(change))


def manifest(**changes: Any) -> Manifest:
    values = {
        "preset": "dense-b",
        "config": stored(FULL),
        "spec": GraphSpec(448, 448, 512),
        "target": "cpu",
        "precision": {"image": "fp16", "text": "fp16"},
        "activation": "quick_gelu",
        "template_name": "single",
        "templates": ["a {}"],
        "context_length": 77,
        "thresholds": {},
        "default_threshold": 0.15,
        "checkpoint_sha256": "0f" * 32,
        "tools": {},
        "sources": ["OpenAI"],
        "licence": "MIT",
        "created": "2026-01-02T03:04:05+00:00",
        "files": dict.fromkeys(("model.onnx", "text_encoder.onnx", "tokenizer.json"), "0f" * 32),
    }
    return Manifest(**{**values, **changes})  # type: ignore[arg-type]


def test_a_manifest_holds_a_dense_clip() -> None:
    found = Manifest.from_json(manifest().to_json())
    assert found.model_config == FULL and found.licence == "MIT"
    with pytest.raises(
        BadBundleError, match="do not fit: a side of 208 pixels does not take windo"
    ):
        manifest(spec=GraphSpec(208, 448, 512)).to_json()
    wrong = changed(lambda v: v["head"].update(cut="much"))
    with pytest.raises(BadBundleError, match="field 'config.head.cut' must be a finite number"):
        manifest(config=wrong).to_json()


def test_a_manifest_of_an_earlier_release_lacks_what_came_later() -> None:
    config = PRESETS["nano"]
    same = {"preset": config.preset, "activation": config.clip.activation}
    spec = GraphSpec(*config.size_hw, config.clip.text_width)
    length = config.clip.text.context_length
    whole = manifest(config=stored(config), spec=spec, context_length=length, **same)
    values = json.loads(whole.to_json())
    for key, was in WRITTEN_LATER.items():
        assert values["config"].pop(key) == was
    assert Manifest.from_json(json.dumps(values)).model_config == config
    del values["config"]["refine_norm"]
    with pytest.raises(BadBundleError, match=r"key 'config\.refine_norm' is missing"):
        Manifest.from_json(json.dumps(values))
