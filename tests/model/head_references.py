"""The dense heads in float64 numpy, written from their formulas, patch by patch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dedos_deploy.head_numbers import ScClipHead
from dedos_deploy.model.blocks import TransformerBlock

Array = NDArray[np.float64]


def f64(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().numpy()


def softmax_np(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer_norm_np(x: Array, norm: torch.nn.LayerNorm) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * f64(norm.weight) + f64(norm.bias)


def keys_values_np(block: TransformerBlock, x: Array) -> tuple[Array, Array]:
    """[N, C] -> keys and values [heads, N, d]."""
    every = layer_norm_np(x, block.ln_1) @ f64(block.qkv.weight).T + f64(block.qkv.bias)
    _, keys, values = np.split(every, 3, axis=-1)
    shape = (len(x), block.heads, -1)
    return keys.reshape(shape).swapaxes(0, 1), values.reshape(shape).swapaxes(0, 1)


def projected_np(block: TransformerBlock, heads: Array) -> Array:
    """[heads, N, d] -> W_o of the merged heads, [N, C]."""
    merged = heads.swapaxes(0, 1).reshape(heads.shape[1], -1)
    return merged @ f64(block.out.weight).T + f64(block.out.bias)


def maskclip_np(x: Array, block: TransformerBlock) -> Array:
    """x: [1 + N, C] after the last but one block; CLS first."""
    return projected_np(block, keys_values_np(block, x)[1])[1:]


def naclip_np(x: Array, block: TransformerBlock, grid_hw: tuple[int, int]) -> Array:
    places = [(row, column) for row in range(grid_hw[0]) for column in range(grid_hw[1])]
    g = np.zeros((len(x), len(x)))
    for i, (row, column) in enumerate(places):
        for j, (row_2, column_2) in enumerate(places):
            g[1 + i, 1 + j] = np.exp(-((row - row_2) ** 2 + (column - column_2) ** 2) / 50)
    keys, values = keys_values_np(block, x)
    logits = keys @ keys.swapaxes(1, 2) / np.sqrt(keys.shape[-1])
    return projected_np(block, softmax_np(logits + g) @ values)[1:]


def density_np(patches: Array, neighbours: int) -> Array:
    count = len(patches)
    distances = np.array([((patches - one) ** 2).sum(1) for one in patches])
    nearest, radius = [], np.zeros(count)
    for i in range(count):
        others = [j for j in np.argsort(distances[i], kind="stable") if j != i][:neighbours]
        nearest.append(others)
        radius[i] = distances[i, others[-1]]
    return np.array([radius[i] * np.mean(1 / radius[nearest[i]]) for i in range(count)])


def outliers_np(patches: Array, numbers: ScClipHead) -> NDArray[np.bool_]:
    density = density_np(patches, numbers.neighbours)
    found: NDArray[np.bool_] = density > np.quantile(density, numbers.quantile)
    return found


def repaired_np(patches: Array, odd: NDArray[np.bool_], grid_hw: tuple[int, int]) -> Array:
    out, (height, width) = patches.copy(), grid_hw
    for i in np.flatnonzero(odd):
        row, column = divmod(int(i), width)
        around = [
            r * width + c
            for r in range(max(0, row - 1), min(height, row + 2))
            for c in range(max(0, column - 1), min(width, column + 2))
        ]
        sound = [j for j in around if not odd[j]]
        if sound:
            out[i] = patches[sound].mean(0)
    return out


def cosines_np(patches: Array) -> Array:
    rows = patches / np.linalg.norm(patches, axis=1, keepdims=True)
    return rows @ rows.T


def affinity_np(similar: Array, cut: float) -> Array:
    kept = similar * (similar >= cut)
    return kept / kept.sum(1, keepdims=True)


def sharpened_np(similar: Array, sharpness: float) -> Array:
    above = sharpness * (similar - similar.mean())
    return np.where(above < 0, -np.inf, above)


def sc_clip_np(
    x: dict[int, Array], block: TransformerBlock, numbers: ScClipHead, grid_hw: tuple[int, int]
) -> Array:
    """x: output [1 + N, C] of each block by its number from 1, the last block's left out."""
    before_last = x[max(x)]
    odd = outliers_np(before_last[1:], numbers)
    similar = cosines_np(repaired_np(x[numbers.similar][1:], odd, grid_hw))
    patches = affinity_np(similar, numbers.cut) @ repaired_np(before_last[1:], odd, grid_hw)
    weights = softmax_np(sharpened_np(similar, numbers.sharpness))

    def calibrated(tokens: Array, cls: Array) -> Array:
        keys, values = keys_values_np(block, tokens)
        own = softmax_np(keys @ keys.swapaxes(1, 2) / np.sqrt(keys.shape[-1]))
        return projected_np(block, (own + weights) / 2 @ values) + numbers.cls_weight * cls

    spread = affinity_np(cosines_np(x[numbers.shallow][1:]), numbers.cut)
    y = spread @ calibrated(patches, before_last[0])
    first, last = numbers.summed
    whole = sum((x[layer] for layer in range(first, last + 1)), np.zeros_like(before_last))
    return y + spread @ calibrated(whole[1:], whole[0])
