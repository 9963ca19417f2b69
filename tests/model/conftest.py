"""A model of a few channels that has every part of the real ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dedos_deploy.model import Dedos, build_model
from dedos_deploy.presets import PRESETS, ClipConfig, ModelConfig, TextTowerConfig

MICRO_CLIP = ClipConfig(
    "micro",
    patch=8,
    width=24,
    layers=4,
    heads=3,
    grid=4,
    text_width=20,
    text=TextTowerConfig(16, 2, 2, context_length=12, tokens=50),
)


def micro_config(**changes: object) -> ModelConfig:
    base = replace(
        PRESETS["edge-b"],
        preset="micro",
        clip=MICRO_CLIP,
        size_hw=(32, 48),
        refine_blocks=(1, 3),
        queries=6,
        query_width=16,
        basic_kernel=(3, 4),
        diffusion_kernel=(2, 4),
        decoder_heads=2,
        decoder_ffn=32,
        pixel_ffn=32,
        aggregation_width=4,
        detail_width=4,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def lively(model: Dedos) -> Dedos:
    """Give every constant-initialised parameter and statistic a random value, so nothing is inert."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if (
                tensor.is_floating_point()
                and "log_scale" not in name
                and name != "proxy_queries.bank"
            ):
                noise = torch.randn(tensor.shape, generator=generator) * 0.1
                tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return model


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lively_weights(module: nn.Module, seed: int) -> None:
    """Draw every weight so that nothing is inert and no layer forgets what it was given."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            drawn = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(parameter + drawn if parameter.ndim == 1 else drawn)


FORMS: dict[str, dict[str, object]] = {
    "fpn": {"pixel_decoder": "fpn", "pixel_layers": 0},
    "msdeform": {"pixel_decoder": "msdeform", "pixel_layers": 2},
    "catseg": {
        "pixel_decoder": "msdeform",
        "pixel_layers": 1,
        "aggregation": "catseg",
        "aggregation_width": 8,
    },
}


@pytest.fixture(params=FORMS)
def model(request: pytest.FixtureRequest) -> Dedos:
    return lively(build_model(micro_config(**FORMS[request.param]), seed=3))


def unit_rows(count: int, width: int, seed: int = 0) -> Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=-1)


def frames(batch: int, size_hw: tuple[int, int], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *size_hw, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
