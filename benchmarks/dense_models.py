"""One trunk and text tower under every dense head, and under its own last layer, for `dense_heads.py`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dedos_deploy.head_numbers import HEADS, Head, sc_clip_head
from dedos_deploy.model import Dedos
from dedos_deploy.model.blocks import TransformerBlock, attend
from dedos_deploy.model.heads import DenseClip, build_dense
from dedos_deploy.presets import DenseConfig
from dedos_deploy.text import Tokenizer, write_tokenizer_json

PLAIN = "last layer"

SizeHw = tuple[int, int]


class Refined(nn.Module):
    """A block of the trunk and the refinement that it was trained with behind it."""

    def __init__(self, block: nn.Module, refine: nn.Module, q_hat: torch.Tensor) -> None:
        super().__init__()
        self.block, self.refine, self.q_hat = block, refine, q_hat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block(x)
        return torch.cat([x[:, :1], self.refine(x[:, 1:], self.q_hat)], dim=1)


class LastLayer(nn.Module):
    """The last block as it is, in place of a head; plain: without residual and feed-forward."""

    def __init__(self, *, plain: bool = False) -> None:
        super().__init__()
        self.plain = plain

    def forward(
        self, tokens: list[torch.Tensor], block: nn.Module, grid_hw: SizeHw
    ) -> torch.Tensor:
        if not self.plain:
            whole: torch.Tensor = block(tokens[-1])
            return whole[:, 1:]
        assert isinstance(block, TransformerBlock)
        q, k, v = block.qkv(block.ln_1(tokens[-1])).chunk(3, dim=-1)
        out: torch.Tensor = block.out(attend(q, k, v, block.heads))
        return out[:, 1:]


def ablations(layers: int) -> dict[str, Head]:
    """Return sc-clip without each of its steps in turn, by a number that makes the step do nothing."""
    whole = sc_clip_head(layers)
    last = layers - 1
    return {
        "sc-clip, no repair": replace(whole, quantile=1 - 1e-9),
        "sc-clip, no spreading": replace(whole, cut=0.999),
        "sc-clip, no CLS": replace(whole, cls_weight=0.0),
        "sc-clip, no earlier blocks": replace(whole, summed=(last, last)),
        "sc-clip, weights of itself": replace(whole, sharpness=1e3),
        "sc-clip, weights of all": replace(whole, sharpness=0.0),
    }


def dense_models(source: Dedos, size_hw: SizeHw, *, steps: bool) -> dict[str, DenseClip]:
    """Return the towers of `source` under every head and under its last layer, by name."""
    layers = source.config.clip.layers
    heads: dict[str, Head] = {kind: make(layers) for kind, make in HEADS.items()}
    if steps:
        heads |= ablations(layers)
    models = {name: dense_model(source, head, size_hw) for name, head in heads.items()}
    plain = {PLAIN: dense_model(source, heads["maskclip"], size_hw)}
    plain[PLAIN].head = LastLayer()
    if steps:
        name = f"{PLAIN}, attention only"
        plain[name] = dense_model(source, heads["maskclip"], size_hw)
        plain[name].head = LastLayer(plain=True)
    return plain | models


def dense_model(source: Dedos, head: Head, size_hw: SizeHw) -> DenseClip:
    """Return the towers of `source` under a head, the trunk refined as trained but for its last."""
    clip = source.config.clip
    model = build_dense(DenseConfig("dense-small", clip, size_hw, head))
    model.trunk.load_state_dict(source.trunk.state_dict())
    model.text_tower.load_state_dict(source.text_tower.state_dict())
    q_hat = source.refinement.q_hat(source.proxy_queries())  # type: ignore[operator]
    for index in source.config.refine_blocks:
        if index < clip.layers - 1:
            block = model.trunk.blocks[index]
            model.trunk.blocks[index] = Refined(block, source.refinement, q_hat)
    return model.eval()


def embedded(model: DenseClip, sentences: Sequence[str]) -> torch.Tensor:
    """Return unit rows [N, D]."""
    length = model.config.clip.text.context_length
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Tokenizer(write_tokenizer_json(Path(folder) / "tokenizer.json", length), length)
        tokens = tokenizer.encode(sentences)
    rows = model.encode_text(torch.from_numpy(tokens))
    return torch.nn.functional.normalize(rows, dim=-1)


def trunk_tokens(model: DenseClip, image: torch.Tensor) -> list[torch.Tensor]:
    """Return the tokens after each block but the last, which all heads share."""
    tokens = [model.trunk.embed(image)]
    for block in model.trunk.blocks[:-1]:
        tokens.append(block(tokens[-1]))
    return tokens[1:]
