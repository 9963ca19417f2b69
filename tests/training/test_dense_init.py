"""Training that starts from the CLIP of a dense preset, by the weights that an export takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import Write, micro_config
from safetensors.torch import save_file

from dedos_deploy import presets
from dedos_deploy.cli.train import main
from dedos_deploy.errors import BadInputError
from dedos_deploy.head_numbers import HEADS
from dedos_deploy.model import load_checkpoint, load_open_clip, save_checkpoint
from dedos_deploy.model.clip_layout import clip_shapes
from dedos_deploy.model.heads import build_dense
from dedos_deploy.presets import PRESETS, ClipConfig, DenseConfig, ModelConfig
from dedos_deploy.training.settings import settings_for
from dedos_deploy.training.setup import inherited_credits, initial_model

open_clip = pytest.importorskip("open_clip")

ARCHITECTURE = "micro-init-quickgelu"
FAST = ["--steps", "1", "--batch", "2", "--workers", "0", "--threads", "1", "--device", "cpu"]


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """A small model with a frozen CLIP, and the dense preset with the same CLIP."""
    config = micro_config()
    clip = replace(config.clip, architecture=ARCHITECTURE, activation="quick_gelu")
    config = replace(config, preset="paper-micro", clip=clip, clip_tune="none")
    dense = DenseConfig("dense-micro", clip, (48, 64), HEADS["naclip"](4))
    monkeypatch.setitem(presets.PRESETS, "paper-micro", config)
    monkeypatch.setitem(presets.DENSE_PRESETS, "dense-micro", dense)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, ARCHITECTURE, {})
    return config


def saved(path: Path, clip: ClipConfig, dtype: torch.dtype = torch.float32) -> Path:
    """Write random weights of `clip` as open_clip does."""
    random = torch.Generator().manual_seed(1)
    state = {
        name: torch.randn(shape, generator=random).mul_(0.1).to(dtype)
        for name, shape in clip_shapes(clip).items()
    }
    save_file(state, path)
    return path


def clip_of(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in model.state_dict().items()
        if name.startswith(("trunk.", "text_tower."))
    }


def test_training_keeps_the_clip_that_the_dense_bundle_labels_with(
    paper: ModelConfig, write_folder: Write, tmp_path: Path
) -> None:
    path = saved(tmp_path / "open_clip_model.safetensors", paper.clip)
    line = ["--preset", "paper-micro", "--init", "dense-micro", "--clip-weights", str(path)]
    output = ["--data", str(write_folder()), "--output", str(tmp_path / "run")]
    assert main([*line, *output, *FAST]) == 0
    trained, record = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")
    dense = build_dense(presets.DENSE_PRESETS["dense-micro"])
    load_open_clip(dense, str(path))
    found, expected = clip_of(trained), clip_of(dense)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert record["sources"][:2] == [
        "CLIP weights of the file open_clip_model.safetensors",
        "Weights it began with: not stated by the file",
    ]


def test_the_strength_of_cost_aggregation_stands_in_the_checkpoint(
    paper: ModelConfig, write_folder: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "open_clip_model.safetensors", paper.clip)
    line = ["--preset", "paper-micro", "--data", str(write_folder()), *FAST]
    weights = ["--init", "dense-micro", "--clip-weights", str(path), "--cost", "catseg"]
    run = tmp_path / "run"
    assert main([*line, *weights, "--output", str(run), "--dry-run"]) == 0
    assert "parameters" in capsys.readouterr().out
    assert main([*line, *weights, "--output", str(run)]) == 0
    trained, _ = load_checkpoint(run / "checkpoint.safetensors")
    assert trained.config == presets.with_cost(paper, "catseg") != paper
    begun, _ = initial_model(
        settings_for(
            "paper-micro", ("x",), init="dense-micro", clip_weights=str(path), cost="catseg"
        )
    )
    before = begun.state_dict()
    moved = {n for n, v in trained.state_dict().items() if not torch.equal(v, before[n])}
    assert {"guide.weight", "layers.1.moved.qkv.weight", "layers.0.words.guide.weight"} <= {
        name.removeprefix("cost_aggregation.") for name in moved
    }
    again = ["--init", str(run / "checkpoint.safetensors"), "--output", str(tmp_path / "again")]
    assert main([*line, *again]) == 2
    assert "has catseg cost aggregation, not light; give --cost catseg" in capsys.readouterr().err


def test_it_is_openais_unless_said_otherwise_and_credits_it(
    paper: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a tag that is cached, as `openai` is after the first export."""
    path = saved(tmp_path / "open_clip_model.safetensors", paper.clip)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repository, name, **_: str(path))
    told = {"openai": {"hf_hub": "timm/small.openai/", "quick_gelu": True}}
    name = ARCHITECTURE.removesuffix("-quickgelu")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, told)
    _, record = initial_model(settings_for("paper-micro", ("x",), init="dense-micro"))
    credit = f"CLIP {ARCHITECTURE} 'openai': OpenAI, github.com/openai/CLIP (MIT)"
    assert inherited_credits(record) == [credit, "Weights it began with: MIT"]


def test_a_dedos_checkpoint_still_gives_its_clip(paper: ModelConfig, tmp_path: Path) -> None:
    path = saved(tmp_path / "clip.safetensors", paper.clip)
    first, _ = initial_model(settings_for("paper-micro", ("x",), clip_weights=str(path), steps=1))
    save_checkpoint(tmp_path / "dedos.safetensors", first)
    given = str(tmp_path / "dedos.safetensors")
    second, _ = initial_model(
        settings_for("paper-micro", ("x",), init="dense-micro", clip_weights=given, steps=1)
    )
    assert all(torch.equal(value, clip_of(second)[name]) for name, value in clip_of(first).items())


def test_the_true_architecture_of_paper_b_starts_from_dense_b(tmp_path: Path) -> None:
    clip = PRESETS["paper-b"].clip
    path = saved(tmp_path / "clip.safetensors", clip, torch.float16)
    model, record = initial_model(
        settings_for("paper-b", ("x",), init="dense-b", clip_weights=str(path))
    )
    assert record["sources"] == ["CLIP weights of the file clip.safetensors"]
    assert (model.config.preset, model.config.clip) == ("paper-b", clip)
    random = torch.Generator().manual_seed(1)
    first = torch.randn(clip.width, generator=random).mul_(0.1).half().float()
    assert next(iter(clip_shapes(clip))) == "visual.class_embedding"
    torch.testing.assert_close(model.trunk.cls.flatten(), first)


@pytest.mark.parametrize(
    ("preset", "init", "message"),
    [
        (
            "paper-l",
            "dense-b",
            "init dense-b is the CLIP ViT-B-16-quickgelu, and preset paper-l has ViT-L-14-quickgelu; "
            "inits for paper-l: dense-l; presets with the CLIP of dense-b: paper-b, edge-b",
        ),
        ("nano", "dense-b", "and preset nano has dedos-nano; inits for nano: none; presets with"),
        (
            "paper-b",
            "dense-b-gelu",
            "is the CLIP ViT-B-16, and preset paper-b has ViT-B-16-quickgelu; inits for paper-b: "
            "dense-b; presets with the CLIP of dense-b-gelu: none",
        ),
        (
            "paper-b",
            "dense-bb",
            "checkpoint dense-bb does not exist, did you mean 'dense-b'?; give",
        ),
    ],
)
def test_another_clip_is_refused_before_anything_is_read(
    preset: str,
    init: str,
    message: str,
    write_folder: Write,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    output = ["--data", str(write_folder()), "--output", str(tmp_path / "run")]
    assert main(["--preset", preset, "--init", init, *output, *FAST]) == 2
    captured = capfd.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_without_internet_the_file_to_bring_is_named(
    paper: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    told = {"openai": {"hf_hub": "timm/small.openai/", "quick_gelu": True}}
    name = ARCHITECTURE.removesuffix("-quickgelu")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, told)
    said = "bring open_clip_model.safetensors of huggingface.co/timm/small.openai to this machine"
    with pytest.raises(BadInputError, match=f"'openai' .* could not be fetched .*; {said}"):
        initial_model(settings_for("paper-micro", ("x",), init="dense-micro"))
