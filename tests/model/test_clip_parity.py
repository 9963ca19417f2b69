"""Our towers against open_clip's, with its own preprocessing, on random weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import Dedos, build_model, freeze, load_open_clip
from dedos_deploy.model.open_clip_weights import copy_clip
from dedos_deploy.presets import PRESETS

from .conftest import MICRO_CLIP, frames, micro_config

open_clip = pytest.importorskip("open_clip")


def open_clip_twin(quick_gelu: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    twin: torch.nn.Module = open_clip.model.CLIP(
        embed_dim=MICRO_CLIP.text_width,
        vision_cfg={"image_size": 32, "patch_size": 8, "width": 24, "layers": 4, "head_width": 8},
        text_cfg={"context_length": 12, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2},
        quick_gelu=quick_gelu,
    )
    return twin.eval()


def preprocessed(image: Tensor) -> Tensor:
    """open_clip's preprocessing of an image already at the network size."""
    from torchvision.transforms import Normalize

    rgb = image.flip(-1).permute(0, 3, 1, 2).float() / 255
    normalised: Tensor = Normalize(MICRO_CLIP.mean, MICRO_CLIP.std)(rgb)
    return normalised


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_trunk_and_text_tower_equal_open_clip(activation: str) -> None:
    config = micro_config(clip=replace(MICRO_CLIP, activation=activation), size_hw=(32, 32))
    model, twin = build_model(config), open_clip_twin(activation == "quick_gelu")
    copy_clip(model, twin.state_dict())
    image = frames(2, (32, 32))
    tokens = torch.tensor([[1, 7, 49, 0, 0, 0, 0, 0, 0, 0, 0, 0], [1, 8, 9, 4, 49, *([0] * 7)]])
    with torch.no_grad():
        expected = twin.encode_image(preprocessed(image))  # type: ignore[operator]
        torch.testing.assert_close(
            model.trunk.embeddings(image)[:, 0], expected, atol=1e-5, rtol=1e-4
        )
        words = twin.encode_text(tokens)  # type: ignore[operator]
        torch.testing.assert_close(model.encode_text(tokens), words, atol=1e-5, rtol=1e-4)


def test_folded_bgr_patch_embedding_equals_open_clip() -> None:
    config = micro_config(size_hw=(32, 32))
    model, twin = build_model(config), open_clip_twin(True)
    copy_clip(model, twin.state_dict())
    image = frames(2, (32, 32))
    frozen = freeze(model, size_hw=(32, 32)).model
    with torch.no_grad():
        conv = twin.visual.conv1(preprocessed(image)).flatten(2).transpose(1, 2)  # type: ignore[union-attr, operator]
        torch.testing.assert_close(frozen.trunk.patch_embedding(image), conv, atol=1e-5, rtol=1e-4)
        expected = twin.encode_image(preprocessed(image))  # type: ignore[operator]
        torch.testing.assert_close(
            frozen.trunk.embeddings(image)[:, 0], expected, atol=2e-5, rtol=1e-4
        )


def test_true_vit_b16_architecture_loads_from_a_local_file(tmp_path: object) -> None:
    """The real loading code, on a random-weight file of the real architecture."""
    from pathlib import Path

    from safetensors.torch import save_file

    path = Path(str(tmp_path)) / "clip.safetensors"
    twin = open_clip.create_model("ViT-B-16-quickgelu").eval()
    save_file({k: v.contiguous() for k, v in twin.state_dict().items()}, path)
    model = build_model(PRESETS["edge-b"])
    load_open_clip(model, str(path))
    image = frames(1, (224, 224))
    with torch.no_grad():
        expected = twin.encode_image(preprocessed(image))
        torch.testing.assert_close(
            model.trunk.embeddings(image)[:, 0], expected, atol=1e-4, rtol=1e-3
        )


def test_loading_errors_name_what_is_wrong(tmp_path: object) -> None:
    model: Dedos = build_model(micro_config())
    with pytest.raises(BadInputError, match=r"'openay' are neither a file nor a tag"):
        load_open_clip(model, "openay")
    state = open_clip_twin(True).state_dict()
    with pytest.raises(BadInputError, match=r"1 surplus: 'visual.trunk.stem'"):
        copy_clip(model, {**state, "visual.trunk.stem": torch.zeros(1)})
    state.pop("visual.proj")
    with pytest.raises(BadInputError, match=r"1 missing: visual.proj"):
        copy_clip(model, state)


def test_position_embedding_resizes_like_open_clip() -> None:
    from open_clip.model import resize_pos_embed

    model, twin = build_model(micro_config()), open_clip_twin(True)
    copy_clip(model, twin.state_dict())
    state = {"visual.positional_embedding": twin.visual.positional_embedding.detach()}  # type: ignore[union-attr, operator]
    target = open_clip.model.CLIP(
        embed_dim=20,
        quick_gelu=True,
        vision_cfg={"image_size": 48, "patch_size": 8, "width": 24, "layers": 4, "head_width": 8},
        text_cfg={"context_length": 12, "vocab_size": 50, "width": 16, "heads": 2, "layers": 2},
    )
    resize_pos_embed(state, target, antialias=False)
    ours = model.trunk.position((6, 6))[0]
    torch.testing.assert_close(ours, state["visual.positional_embedding"], atol=1e-5, rtol=1e-4)
