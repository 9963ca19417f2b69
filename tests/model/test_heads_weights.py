"""open_clip's weights in towers of either activation: loaded when they fit, refused when they do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dedos_deploy.errors import BadInputError
from dedos_deploy.head_numbers import HEADS
from dedos_deploy.model import load_open_clip
from dedos_deploy.model.heads import DenseClip, build_dense
from dedos_deploy.presets import Activation, DenseConfig

from .conftest import MICRO_CLIP, frames

open_clip = pytest.importorskip("open_clip")

MODEL_CFG = {
    "embed_dim": MICRO_CLIP.text_width,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 24, "layers": 4, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2},
}
HALF = (0.5, 0.5, 0.5)
QUICK = "micro-heads-quickgelu"


@pytest.fixture(autouse=True)
def _micro_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip knows our small tower under a name of each activation."""
    known: dict[str, Any] = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(known, "micro-heads", MODEL_CFG)
    monkeypatch.setitem(known, QUICK, {**MODEL_CFG, "quick_gelu": True})


def dense(architecture: str, activation: Activation, **changes: Any) -> DenseClip:
    clip = replace(MICRO_CLIP, architecture=architecture, activation=activation, **changes)
    return build_dense(DenseConfig("dense-micro", clip, (48, 64), HEADS["sc-clip"](4)))


def saved(folder: Path, architecture: str, **config: Any) -> tuple[Path, Any]:
    """Return a file of random weights, and the model it came from; config: what stands beside it."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    twin = open_clip.create_model(architecture).eval()
    path = folder / "open_clip_model.safetensors"
    save_file({name: value.contiguous() for name, value in twin.state_dict().items()}, path)
    if config:
        (folder / "open_clip_config.json").write_text(json.dumps(config))
    return path, twin


def embedded(
    twin: Any, image: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> Any:
    rgb = image.flip(-1).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        return twin.encode_image(
            (rgb - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        )


@pytest.mark.parametrize(
    ("architecture", "activation"), [("micro-heads", "gelu"), (QUICK, "quick_gelu")]
)
def test_each_activation_loads_and_computes_what_open_clip_does(
    architecture: str, activation: Activation, tmp_path: Path
) -> None:
    path, twin = saved(tmp_path, architecture)
    model, image = dense(architecture, activation), frames(2, (32, 32))
    load_open_clip(model, str(path))
    expected = embedded(twin, image, MICRO_CLIP.mean, MICRO_CLIP.std)
    with torch.no_grad():
        found = model.trunk.embeddings(image)[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert model.config.clip.mean == MICRO_CLIP.mean


def test_mean_and_std_beside_the_weights_become_the_models(tmp_path: Path) -> None:
    """As of LAION's ViT-L-14, which was trained on pictures in [-1, 1]."""
    preprocessing = {"mean": list(HALF), "std": list(HALF)}
    path, twin = saved(tmp_path, "micro-heads", model_cfg=MODEL_CFG, preprocess_cfg=preprocessing)
    model, image = dense("micro-heads", "gelu"), frames(2, (32, 32))
    load_open_clip(model, str(path))
    assert (model.config.clip.mean, model.config.clip.std) == (HALF, HALF)
    with torch.no_grad():
        found = model.trunk.embeddings(image)[:, 0]
    torch.testing.assert_close(found, embedded(twin, image, HALF, HALF), atol=1e-5, rtol=1e-4)


def test_tags_of_the_other_activation_are_refused() -> None:
    with pytest.raises(
        BadInputError, match="were trained with GELU, and dense-micro computes Quick"
    ):
        load_open_clip(dense("ViT-B-16-quickgelu", "quick_gelu"), "laion2b_s34b_b88k")
    with pytest.raises(BadInputError, match="trained with QuickGELU, .* other weights: laion400m"):
        load_open_clip(dense("ViT-B-16", "gelu"), "openai")
    with pytest.raises(
        BadInputError, match="'openia' are neither a file nor a tag of ViT-B-16; tags"
    ):
        load_open_clip(dense("ViT-B-16", "gelu"), "openia")


@pytest.mark.parametrize(
    ("architecture", "activation", "beside"),
    [("micro-heads", "gelu", True), (QUICK, "quick_gelu", False)],
)
def test_files_of_the_other_activation_are_refused_where_their_configuration_says_so(
    architecture: str, activation: Activation, beside: bool, tmp_path: Path
) -> None:
    path, _ = saved(tmp_path, architecture, model_cfg={**MODEL_CFG, "quick_gelu": beside})
    with pytest.raises(BadInputError, match="other weights: a file"):
        load_open_clip(dense(architecture, activation), str(path))
    (tmp_path / "open_clip_config.json").unlink()
    load_open_clip(dense(architecture, activation), str(path))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"model_cfg": {}, "preprocess_cfg": {"mean": [0.5, 0.5]}}']
)
def test_a_damaged_configuration_beside_the_weights_is_told(text: str, tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "micro-heads")
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(
        BadInputError, match="open_clip_config.json' .* is not a configuration of open"
    ):
        load_open_clip(dense("micro-heads", "gelu"), str(path))


def test_weights_of_another_size_and_cut_files_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = saved(tmp_path, "micro-heads")
    other = {**MODEL_CFG, "vision_cfg": {**MODEL_CFG["vision_cfg"], "width": 48}}  # type: ignore[dict-item]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "micro-wide", other)
    with pytest.raises(BadInputError, match=r"of another shape: visual.*\[24\] instead of \[48\]"):
        load_open_clip(dense("micro-wide", "gelu", width=48, heads=6), str(path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInputError, match="could not be loaded .* give a local file"):
        load_open_clip(dense("micro-heads", "gelu"), str(path))


def test_a_torchscript_program_is_not_run(tmp_path: Path) -> None:
    """As OpenAI published its CLIPs first: an archive of code beside the weights."""
    import zipfile

    path = tmp_path / "ViT-B-16.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ViT-B-16/data.pkl", b"")
        archive.writestr("ViT-B-16/code/__torch__.py", b"class M:", zipfile.ZIP_DEFLATED)
    with pytest.raises(BadInputError, match="it is a program of TorchScript, .*; fetch them again"):
        load_open_clip(dense("micro-heads", "gelu"), str(path))
