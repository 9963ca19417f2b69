"""CLIPs as the library transformers saves them, and positions of pictures of another size."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dedos_deploy.errors import BadInputError
from dedos_deploy.head_numbers import HEADS
from dedos_deploy.model import load_open_clip
from dedos_deploy.model.clip_layout import clip_misfit, clip_shapes
from dedos_deploy.model.heads import DenseClip, build_dense
from dedos_deploy.presets import DENSE_PRESETS, Activation, DenseConfig

from .conftest import MICRO_CLIP, frames

open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _micro_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip lists no tags for names that it does not know."""
    for name in ("micro-hf", "micro-hf-quickgelu"):
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, {})


def dense(activation: Activation, **changes: Any) -> DenseClip:
    name = "micro-hf-quickgelu" if activation == "quick_gelu" else "micro-hf"
    clip = replace(MICRO_CLIP, architecture=name, activation=activation, **changes)
    return build_dense(DenseConfig("dense-micro", clip, (48, 64), HEADS["sc-clip"](4)))


def theirs(activation: Activation) -> Any:
    """Return transformers' CLIP of our small sizes, with random weights."""
    text, clip = MICRO_CLIP.text, MICRO_CLIP
    config = transformers.CLIPConfig(
        text_config={
            "hidden_size": text.width,
            "intermediate_size": 4 * text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "vocab_size": text.tokens,
            "max_position_embeddings": text.context_length,
            "hidden_act": activation,
            "bos_token_id": text.tokens - 2,
            "eos_token_id": text.tokens - 1,
        },
        vision_config={
            "hidden_size": clip.width,
            "intermediate_size": 4 * clip.width,
            "num_hidden_layers": clip.layers,
            "num_attention_heads": clip.heads,
            "image_size": clip.grid * clip.patch,
            "patch_size": clip.patch,
            "hidden_act": activation,
        },
        projection_dim=clip.text_width,
    )
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():  # Biases are zero at first, and would hide a mix-up.
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def features(model: Any, name: str, **inputs: Tensor) -> Tensor:
    """Return what theirs embeds; older versions give the tensor, newer one an object."""
    with torch.no_grad():
        found = getattr(model, f"get_{name}_features")(**inputs)
    return found if isinstance(found, Tensor) else found.pooler_output  # type: ignore[no-any-return]


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_it_loads_and_computes_what_transformers_does(
    activation: Activation, tmp_path: Path
) -> None:
    twin = theirs(activation)
    twin.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]})
    )
    model, image = dense(activation), frames(2, (32, 32))
    load_open_clip(model, str(tmp_path / "model.safetensors"))
    mean, std = model.config.clip.mean, model.config.clip.std
    assert (mean, std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    rgb = image.flip(-1).permute(0, 3, 1, 2) / 255
    pixels = (rgb - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    end = MICRO_CLIP.text.tokens - 1
    tokens = torch.tensor([[1, 7, end, *[0] * 9], [1, 8, 9, 4, end, *[0] * 7]])
    with torch.no_grad():
        torch.testing.assert_close(
            model.trunk.embeddings(image)[:, 0],
            features(twin, "image", pixel_values=pixels),
            atol=1e-4,
            rtol=1e-4,
        )
        torch.testing.assert_close(
            model.encode_text(tokens),
            features(twin, "text", input_ids=tokens),
            atol=1e-4,
            rtol=1e-4,
        )


def test_both_namings_give_the_same_model(tmp_path: Path) -> None:
    """A file renamed by hand, by a table that is written out here once more."""
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(3)
    ours = {
        name: torch.randn(shape, generator=random)
        for name, shape in clip_shapes(MICRO_CLIP).items()
    }
    save_file(ours, tmp_path / "open_clip.safetensors")
    named = {name: value for one in ours for name, value in split(one, ours[one]).items()}
    save_file(named, tmp_path / "transformers.safetensors")
    torch.save({**named, "logit_scale": torch.ones(())}, tmp_path / "transformers.bin")
    states = []
    for name in ("open_clip.safetensors", "transformers.safetensors", "transformers.bin"):
        model = dense("gelu")
        load_open_clip(model, str(tmp_path / name))
        states.append(model.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]) and torch.equal(value, states[2][name]), name


def split(name: str, value: Tensor) -> State:
    for ours, other in (
        ("visual.transformer.resblocks", "vision_model.encoder.layers"),
        ("transformer.resblocks", "text_model.encoder.layers"),
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("attn.", "self_attn."),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
        ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        ("visual.conv1", "vision_model.embeddings.patch_embedding"),
        ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        ("visual.ln_pre", "vision_model.pre_layrnorm"),
        ("visual.ln_post", "vision_model.post_layernorm"),
        ("ln_final", "text_model.final_layer_norm"),
    ):
        name = name.replace(ours, other) if ours in name else name
    if name.startswith("token_embedding"):
        name = f"text_model.embeddings.{name}"
    if name == "positional_embedding":
        name = "text_model.embeddings.position_embedding.weight"
    if name in ("visual.proj", "text_projection"):
        theirs = {"visual.proj": "visual_projection.weight"}.get(name, "text_projection.weight")
        return {theirs: value.t().contiguous()}
    if "in_proj_" in name:
        thirds = zip("qkv", value.chunk(3), strict=True)
        return {
            name.replace("in_proj_", f"{part}_proj."): third.contiguous() for part, third in thirds
        }
    return {name: value}


@pytest.mark.parametrize(
    ("activation", "told"),
    [
        ("gelu", {"model_type": "clip", "text_config": {}, "vision_config": {}}),
        (
            "gelu",
            {
                "model_type": "clip",
                **{f"{t}_config": {"hidden_act": "quick_gelu"} for t in ("text", "vision")},
            },
        ),
        (
            "quick_gelu",
            {
                "model_type": "clip",
                **{f"{t}_config": {"hidden_act": "gelu"} for t in ("text", "vision")},
            },
        ),
    ],
)
def test_the_configuration_beside_it_tells_the_activation(
    activation: Activation, told: dict[str, Any], tmp_path: Path
) -> None:
    theirs("gelu").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(BadInputError, match="were trained with .*, and dense-micro computes"):
        load_open_clip(dense(activation), str(path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of something else"}))
    load_open_clip(dense(activation), str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a configuration of transf"),
        ("[]", "is not a configuration of transf"),
        (
            '{"model_type": "clip", "text_config": {"hidden_act": "gelu"}}',
            "text tower computes 'gelu' and the picture tower 'quick_gelu', but both must",
        ),
        (
            json.dumps(
                {
                    "model_type": "clip",
                    **{f"{t}_config": {"hidden_act": "silu"} for t in ("text", "vision")},
                }
            ),
            "computes 'silu' and the picture tower 'silu', but both must compute quick_gelu or gelu",
        ),
    ],
)
def test_a_configuration_that_cannot_be_is_told(text: str, message: str, tmp_path: Path) -> None:
    theirs("gelu").save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadInputError, match=f"config.json' beside .* {message}"):
        load_open_clip(dense("gelu"), str(tmp_path / "model.safetensors"))


def _without(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


CHANGES: list[tuple[Callable[[State], State], str]] = [
    (
        lambda s: _without(s, "text_model.encoder.layers.0.self_attn.q_proj.bias"),
        "1 missing: text_model.encoder.layers.0.self_attn.q_proj.bias",
    ),
    (lambda s: {**s, "vision_model.head.weight": torch.ones(2)}, "1 surplus: 'vision_model.head.w"),
    (
        lambda s: {**s, "visual_projection.weight": torch.ones(24, 20)},
        r"1 of another shape: visual_projection.weight \[24, 20\] instead of \[20, 24\]",
    ),
    (
        lambda s: {
            **s,
            "vision_model.embeddings.position_embedding.weight": torch.ones(37, 24),
        },
        "it was trained on pictures of 48x48, not of 32x32",
    ),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_every_name_and_shape_is_checked(
    change: Callable[[State], State], message: str, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(theirs("gelu").state_dict()).items()}, path)
    model = dense("gelu")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(BadInputError, match=message):
        load_open_clip(model, str(path))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("ours", "other"), [("dense-b", "dense-l"), ("dense-l", "dense-b")])
def test_a_checkpoint_of_the_other_size_is_told_by_its_tensors(ours: str, other: str) -> None:
    wanted, found = (clip_shapes(DENSE_PRESETS[name].clip) for name in (ours, other))
    positions = "visual.positional_embedding"
    problem = clip_misfit(DENSE_PRESETS[ours].clip, wanted, found, set(), positions=positions)
    blocks = "144 surplus" if ours == "dense-b" else "144 missing"
    assert problem is not None and problem.startswith(f"{blocks}: ") and len(problem) < 600
    assert "of another shape: ln_final.bias " in problem


@pytest.mark.parametrize("side", [48, 64])
def test_positions_of_pictures_of_another_size_are_refused(side: int, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    grid = side // MICRO_CLIP.patch
    shapes = clip_shapes(replace(MICRO_CLIP, grid=grid))
    save_file(
        {name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(BadInputError, match=f"on pictures of {side}x{side}, not of 32x32"):
        load_open_clip(dense("gelu"), str(tmp_path / "a.safetensors"))
