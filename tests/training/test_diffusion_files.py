"""Reading a diffusion model: folders, the hub's cache, and files that are missing, damaged or unfit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_diffusion import PROMPT_WIDTH, write_tiny_diffusion

from dedos_deploy.errors import BadInputError
from dedos_deploy.training.diffusion.files import WEIGHTS
from dedos_deploy.training.diffusion.walk import (
    DiffusionSettings,
    LatentDiffusion,
    load_diffusion,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_diffusion(tmp_path_factory.mktemp("sd") / "tiny")


@pytest.fixture(scope="module")
def tiny(folder: Path) -> LatentDiffusion:
    return load_diffusion(DiffusionSettings(str(folder), size_hw=(32, 48)))


def test_the_empty_prompt_comes_from_the_text_encoder(
    tmp_path: Path, folder: Path, tiny: LatentDiffusion
) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    root = shutil.copytree(folder, tmp_path / "sd")
    (root / "empty_prompt.safetensors").unlink()
    with pytest.raises(BadInputError, match=r"neither text_encoder/ nor empty_prompt"):
        load_diffusion(replace(tiny.settings, model=str(root)))
    (root / "tokenizer").mkdir()
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>"]
    (root / "tokenizer/vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (root / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(
        str(root / "tokenizer/vocab.json"), str(root / "tokenizer/merges.txt"), model_max_length=7
    ).save_pretrained(root / "tokenizer")
    torch.manual_seed(3)
    config = CLIPTextConfig(
        vocab_size=3,
        hidden_size=PROMPT_WIDTH,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=7,
        bos_token_id=0,
        eos_token_id=1,
    )
    encoder = CLIPTextModel(config).eval()
    encoder.save_pretrained(root / "text_encoder")
    with torch.no_grad():
        expected = encoder(torch.tensor([[0, 1, 1, 1, 1, 1, 1]]))[0]
    found = load_diffusion(replace(tiny.settings, model=str(root)))
    assert torch.allclose(found.empty_prompt, expected, atol=1e-6)
    assert not [name for name, _ in found.named_modules() if "text" in name.split(".")[0]]
    # With no files transformers makes a tokenizer of a few words up.
    for file in (root / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(BadInputError, match=r"words where tokenizer/ has|sd/tokenizer"):
        load_diffusion(replace(tiny.settings, model=str(root)))


def test_a_missing_part_and_a_damaged_file_are_named(
    tmp_path: Path, folder: Path, tiny: LatentDiffusion
) -> None:
    root = shutil.copytree(folder, tmp_path / "sd")
    broken = replace(tiny.settings, model=str(root))
    (root / "unet/config.json").write_text("{")
    with pytest.raises(BadInputError, match=r"cannot read the diffusion model in .*sd/unet"):
        load_diffusion(broken)
    shutil.copy(folder / "unet/config.json", root / "unet")
    (root / "unet" / WEIGHTS).write_bytes(b"no weights")
    with pytest.raises(BadInputError, match=r"cannot read the diffusion model in .*sd/unet"):
        load_diffusion(broken)
    (root / "unet" / WEIGHTS).rename(root / "unet/diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(
        BadInputError, match=rf"no unet/{WEIGHTS} \(unet/ holds .*fp16.*plain names"
    ):
        load_diffusion(broken)
    # Pickled weights are not read, even where there are no others.
    torch.save(load_file(folder / "unet" / WEIGHTS), root / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(BadInputError, match=rf"has no unet/{WEIGHTS}"):
        load_diffusion(broken)
    shutil.copy(folder / "unet" / WEIGHTS, root / "unet" / WEIGHTS)
    assert load_diffusion(broken).fingerprint == tiny.fingerprint
    shutil.rmtree(root / "vae")
    with pytest.raises(BadInputError, match=r"has no vae/"):
        load_diffusion(broken)


def test_weights_that_do_not_fit_are_not_made_up(tmp_path: Path, folder: Path) -> None:
    root = shutil.copytree(folder, tmp_path / "sd")
    settings, path = DiffusionSettings(str(root), size_hw=(32, 32)), root / "vae" / WEIGHTS
    weights = load_file(path)
    lacking = {name: value for name, value in weights.items() if name != "decoder.conv_in.bias"}
    save_file(lacking, path, metadata={"format": "pt"})
    with pytest.raises(BadInputError, match=r"1 missing keys, such as decoder.conv_in.bias"):
        load_diffusion(settings)
    save_file({**weights, "other": torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(BadInputError, match=r"1 unexpected keys, such as other"):
        load_diffusion(settings)
    save_file({**lacking, "decoder.conv_in.bias": torch.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.raises(BadInputError, match=r"in .*vae .*conv_in.bias expected shape"):
        load_diffusion(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 9}, r"reads 9 channels, but its latent code has 4; .*inpainting"),
        ({"cross_attention_dim": 20}, r"reads text of width 20, but the empty prompt has 12"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": 8,
            },
            r"needs more than a text .*1.4, 1.5 or 2.1",
        ),
    ],
)
def test_other_kinds_of_diffusion_are_refused(
    tmp_path: Path, folder: Path, changes: dict[str, object], message: str
) -> None:
    from diffusers import UNet2DConditionModel

    root = shutil.copytree(folder, tmp_path / "sd")
    config = json.loads((root / "unet/config.json").read_text())
    UNet2DConditionModel.from_config({**config, **changes}).save_pretrained(root / "unet")
    with pytest.raises(BadInputError, match=message):
        load_diffusion(DiffusionSettings(str(root)))


def test_a_hub_name_without_a_connection_says_what_to_do(tmp_path: Path, offline_hub: Path) -> None:
    with pytest.raises(
        BadInputError, match="or a folder downloaded by `hf download nobody/no-such"
    ):
        load_diffusion(DiffusionSettings("nobody/no-such-diffusion"))
    with pytest.raises(BadInputError, match="withdrew that name, a mirror is sd2-community/"):
        load_diffusion(DiffusionSettings("stabilityai/stable-diffusion-2-1"))


def test_a_hub_name_that_was_downloaded_needs_no_connection(
    folder: Path, tiny: LatentDiffusion, offline_hub: Path
) -> None:
    repository = offline_hub / "models--somebody--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("0" * 40))
    found = load_diffusion(replace(tiny.settings, model="somebody/tiny"))
    assert found.fingerprint == tiny.fingerprint
    (repository / "snapshots" / ("0" * 40) / "unet" / WEIGHTS).unlink()
    with pytest.raises(BadInputError, match=r"cannot download|has no unet"):
        load_diffusion(replace(tiny.settings, model="somebody/tiny"))


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no connection."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"
