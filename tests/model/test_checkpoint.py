"""Checkpoints: round trip, strictness and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import build_model, load_checkpoint, save_checkpoint

from .conftest import lively, micro_config


def test_round_trip(tmp_path: Path) -> None:
    model = lively(build_model(micro_config()))
    model.proxy_queries.fill = "ema"
    save_checkpoint(tmp_path / "m.safetensors", model, extra={"step": 7, "sources": ["a"]})
    loaded, extra = load_checkpoint(tmp_path / "m.safetensors", preset="micro")
    assert extra == {"step": 7, "sources": ["a"]}
    assert loaded.config == model.config and loaded.proxy_queries.fill == "ema"
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_compact_checkpoint_is_small_and_stable(tmp_path: Path) -> None:
    model = lively(build_model(micro_config()))
    plain, small, again = (tmp_path / name for name in ("plain", "small", "again"))
    save_checkpoint(plain, model)
    save_checkpoint(small, model, compact=True)
    assert small.stat().st_size < 0.6 * plain.stat().st_size
    rounded, _ = load_checkpoint(small)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(rounded.state_dict()[name], value, atol=2e-2, rtol=2e-3)
    save_checkpoint(again, rounded, compact=True)
    twice, _ = load_checkpoint(again)
    for name, value in rounded.state_dict().items():
        torch.testing.assert_close(twice.state_dict()[name], value, atol=1e-6, rtol=1e-6)


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(BadInputError, match="does not exist"):
        load_checkpoint(path)
    model = build_model(micro_config())
    save_checkpoint(path, model)
    with pytest.raises(BadInputError, match="of preset 'micro', not 'nano'; use --preset micro"):
        load_checkpoint(path, preset="nano")
    load_checkpoint(path, preset="micro")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInputError, match="not a readable safetensors"):
        load_checkpoint(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(BadInputError, match="not a DEDOS checkpoint"):
        load_checkpoint(path)


def test_wrong_tensors_and_headers(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = build_model(micro_config())
    save_checkpoint(path, model)
    tensors = load_file(path)
    config = json.dumps({"config": model.config.to_dict(), "bank_fill": "static", "extra": {}})
    meta = {"format": "dedos-checkpoint-1", "dedos": config}
    tensors.pop("trunk.cls")
    save_file(tensors, path, metadata=meta)
    with pytest.raises(BadInputError, match="trunk.cls"):
        load_checkpoint(path)
    save_file(tensors, path, metadata={**meta, "dedos": config.replace('"queries"', '"querys"')})
    with pytest.raises(
        BadInputError, match="unknown key 'querys' in config, did you mean 'queries'"
    ):
        load_checkpoint(path)


def test_unwritable_place_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot write checkpoint"):
        save_checkpoint(tmp_path / "no" / "m.safetensors", build_model(micro_config()))
    assert not list(tmp_path.iterdir())


def test_compact_matrices_are_whole_numbers_times_short_scales(tmp_path: Path) -> None:
    model = lively(build_model(micro_config(decoder_ffn=512)))
    name = "mask_decoder.layers.0.fc.weight"
    with torch.no_grad():
        model.get_parameter(name)[3] = 0
    save_checkpoint(tmp_path / "m", model, compact=True)
    rounded, _ = load_checkpoint(tmp_path / "m")
    weight, stored = rounded.get_parameter(name).detach(), load_file(tmp_path / "m")
    codes, scale = stored[name], stored[f"{name}.scale"]
    assert codes.dtype == torch.int8 and codes.abs().amax(1).tolist() == [
        0 if row == 3 else 127 for row in range(len(codes))
    ]
    # Exact in float32: the same product in float64 is no different.
    assert torch.equal(weight.double(), codes.double() * scale.double())
    error = (weight - model.get_parameter(name)).abs().amax(1)
    assert (error <= 0.5001 * scale[:, 0]).all()
