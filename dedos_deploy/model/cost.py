"""What a model costs: parameters, multiply-accumulates and activation memory, without running it.

Everything is computed on PyTorch's meta device, so paper-l takes a second and no memory.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dedos_deploy.config_json import AnyConfig
from dedos_deploy.model.build import build_model
from dedos_deploy.model.dedos import Dedos
from dedos_deploy.model.freeze import AnyModel, FrozenDedos, freeze
from dedos_deploy.model.heads import build_dense
from dedos_deploy.model.peers import CatSeg, San
from dedos_deploy.model.tuned_clip import tuned_count
from dedos_deploy.peer_configs import CatSegConfig, SanConfig
from dedos_deploy.presets import DenseConfig, ModelConfig

PARTS = (
    "trunk",
    "refinement",
    "picture_queries",
    "detail",
    "pixel_decoder",
    "cost_aggregation",
    "mask_features",
    "mask_decoder",
    "text_aggregation",
    "head",
    "word_logits",
)


@dataclass(frozen=True)
class ModelCost:
    """Cost of the frozen graph for one image."""

    macs: int
    """All multiply-accumulates of matrix products and convolutions."""
    macs_table7: int
    """`macs` without CLIP's own attention products, the convention behind the paper's Table 7
    (fvcore does not see inside nn.MultiheadAttention)."""
    macs_by_part: dict[str, int]
    """`macs` per module."""
    parameters_trained: int
    """What training learns (CLIP frozen unless the preset tunes it, a pretrained detail branch
    always)."""
    parameters_shipped: int
    """Learned numbers in the deployed graph, CLIP's own excluded when it is frozen."""
    parameters_clip: int
    """Trunk weights in the deployed graph."""
    activation_bytes: int
    """Peak of live FP32 activations, weights excluded."""


def model_cost(config: AnyConfig, *, size_hw: tuple[int, int], slots: int) -> ModelCost:
    """Return the cost of `config` at one network size and number of slots K."""
    with torch.device("meta"):
        model = _built(config)
        frozen = freeze(model, size_hw=size_hw)
        image = torch.zeros(1, *size_hw, 3, dtype=torch.uint8)
        text = torch.zeros(slots, config.clip.text_width)
        valid = torch.ones(slots)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            frozen(image, text, valid)
        with torch.no_grad(), LiveBytes() as live:
            frozen(image, text, valid)
    counts = counter.get_flop_counts()
    macs = counter.get_total_flops() // 2
    prefix = "FrozenDedos.model."
    parts = {part: _macs(counts.get(prefix + part, {})) for part in _parts(frozen)}
    if isinstance(config, ModelConfig):
        # The trunk calls the refinement and what makes a picture's queries, and the cost aggregation
        # calls CLIP's output projection.
        parts["trunk"] += _macs(counts.get(prefix + "trunk.proj", {})) - parts["refinement"]
        parts["trunk"] -= parts["picture_queries"]
    else:
        # Others call the blocks of their trunk themselves, and heads the last of them.
        parts["trunk"] = macs - sum(count for part, count in parts.items() if part != "trunk")
    clip = _parameters(frozen.model.trunk)
    trained, shipped = _learned(model, frozen)
    return ModelCost(
        macs=macs,
        macs_table7=macs - _trunk_attention(config, size_hw),
        macs_by_part={name: count for name, count in parts.items() if count},
        parameters_trained=trained,
        parameters_shipped=shipped,
        parameters_clip=clip,
        activation_bytes=live.peak,
    )


def _built(config: AnyConfig) -> AnyModel:
    if isinstance(config, SanConfig):
        return San(config)
    if isinstance(config, CatSegConfig):
        return CatSeg(config)
    return build_model(config) if isinstance(config, ModelConfig) else build_dense(config)


def _parts(frozen: FrozenDedos) -> list[str]:
    """Return the modules to count: PARTS, or those of a published model, in lists one by one."""
    if not isinstance(frozen.model, San | CatSeg):
        return list(PARTS)
    parts = ["trunk"]
    for name, module in frozen.model.named_children():
        if isinstance(module, nn.ModuleList):
            parts += [f"{name}.{index}" for index in range(len(module))]
        elif name != "trunk":
            parts.append(name)
    return parts


def _macs(counts: dict[Any, int]) -> int:
    return sum(counts.values()) // 2


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _learned(model: AnyModel, frozen: FrozenDedos) -> tuple[int, int]:
    """Return how many numbers training learns, and how many of them the frozen graph holds."""
    if not isinstance(model, Dedos):
        beside = _parameters(frozen.model) - _parameters(frozen.model.trunk)
        return 0, beside  # Nothing of it is trained here.
    config = model.config
    trained = _parameters(model) - _parameters(model.text_tower)
    shipped = _parameters(frozen.model) + config.queries * config.query_width
    if model.detail is not None and config.detail == "mobile":
        trained -= _parameters(model.detail)
    if config.clip_tune == "all":
        return trained, shipped
    tuned = tuned_count(model)
    frozen_part = _parameters(model.trunk) - tuned
    return trained - frozen_part, shipped - _parameters(frozen.model.trunk) + tuned


def _trunk_attention(config: AnyConfig, size_hw: tuple[int, int]) -> int:
    """MACs of q kᵀ and of the weighted sum over v in every trunk block that has its own attention."""
    clip, views = config.clip, 1
    seen_hw = size_hw if isinstance(config, ModelConfig) else config.seen_hw(size_hw)
    if isinstance(config, DenseConfig) and config.windows is not None:
        rows, columns = (len(config.windows.offsets(side)) for side in size_hw)
        views = rows * columns
    tokens = 1 + (seen_hw[0] // clip.patch) * (seen_hw[1] // clip.patch)
    pairs = tokens * tokens * clip.layers
    if isinstance(config, SanConfig):
        # Later blocks have the queries too, of which the last computes no others.
        late, every = clip.layers - config.split, config.queries + tokens
        pairs = tokens * tokens * config.split + every * (every * (late - 1) + config.queries)
    elif not isinstance(config, ModelConfig):
        pairs -= tokens * tokens  # The last block's is the head's, or not there.
    return 2 * pairs * clip.width * views


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Peak bytes of storages that operations created and that are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak: int = 0
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._track(tensor)
        return out

    def _track(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self.live -= size
