"""How much a trunk sees: the mean IoU of the best linear map from its patches to words.

Ridge regression in closed form, so that nothing but the trunk decides the figure: seconds instead
of a training, the same for every run, and a trunk from random numbers as the bar.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.errors import BadInputError
from dedos_deploy.model import Dedos
from dedos_deploy.model.refinement import Refinement
from dedos_deploy.training.evaluate import (
    Evaluation,
    count_pairs,
    iou_from_confusion,
    network_input,
)
from dedos_deploy.training.folders import LabelFolder, read_pair
from dedos_deploy.training.targets import mask_targets


@torch.no_grad()
def linear_probe(
    model: Dedos,
    train: LabelFolder,
    val: LabelFolder,
    size_hw: tuple[int, int],
    *,
    images: int = 100,
    ridge: float = 1e-3,
) -> Evaluation:
    """Return the result on `val` of a linear map fitted on `train`, two splits of one data set.

    What is read are the taps of the pixel decoder, as the model refines them. images: most of each
    split, evenly spaced; ridge: shrinkage of every direction, as a part of its variance.

    Raises BadInputError when the splits name different classes.
    """
    if train.words != val.words:
        raise BadInputError(f"splits of {val.name} name different classes; probe one data set")
    slots = {word: slot for slot, word in enumerate(val.annotated)}
    table = val.lookup(slots)
    grid = (size_hw[0] // model.trunk.patch, size_hw[1] // model.trunk.patch)
    annotated = torch.ones(1, len(slots), dtype=torch.bool)
    square, product, mass = (torch.zeros((), dtype=torch.float64) for _ in range(3))
    for item in _spread(len(train.items), images):
        image, raw = read_pair(train, item)
        targets = mask_targets(torch.from_numpy(table[raw])[None], annotated, grid)
        rows = _tokens(model, network_input(image, size_hw))
        weight = targets.weight.flatten()[:, None].double()
        wanted = targets.coverage[0].flatten(1).T.double()
        square = square + rows.T @ (weight * rows)
        product = product + rows.T @ (weight * wanted)
        mass = mass + weight.sum()
    penalty = ridge * square.diagonal().clamp(min=1e-9 * float(mass)).diag()
    matrix = torch.linalg.solve(square + penalty, product)
    confusion = np.zeros((len(slots), len(slots)), np.int64)
    picked = _spread(len(val.items), images)
    for item in picked:
        image, raw = read_pair(val, item)
        rows = _tokens(model, network_input(image, size_hw))
        maps = (rows @ matrix).T.reshape(1, len(slots), *grid).float()
        full = F.interpolate(maps, size=raw.shape, mode="bilinear", align_corners=False)
        confusion += count_pairs(table[raw], full[0].argmax(0).numpy(), len(slots))
    iou, mean = iou_from_confusion(confusion)
    return Evaluation(val.name, val.annotated, iou, mean, len(picked))


def _tokens(model: Dedos, image: Tensor) -> Tensor:
    """Return float64 [N, 3 C + 1]: normalised tokens of the three taps, and a constant."""
    refine = model.refinement
    q_hat = refine.q_hat(model.proxy_queries()) if isinstance(refine, Refinement) else None
    found = model.trunk(image, refine, q_hat, model.taps)
    parts = [F.layer_norm(one[0].float(), one.shape[2:]) for one in found]
    return torch.cat([*parts, torch.ones(len(parts[0]), 1)], dim=1).double()


def _spread(items: int, wanted: int) -> list[int]:
    count = min(wanted, items)
    return [index * items // count for index in range(count)]
