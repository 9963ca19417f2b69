"""How much a trunk sees: the mean IoU of the best linear map from its patches to words.

Ridge regression in closed form, so that nothing but the trunk decides the figure: seconds instead
of a training, the same for every run, and a trunk from random numbers as the bar.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dedos_deploy.errors import BadInputError
from dedos_deploy.evaluation.result import EvaluationResult
from dedos_deploy.model import Dedos
from dedos_deploy.training.evaluate import evaluate_scores, network_input, spread
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
) -> EvaluationResult:
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
    for item in spread(len(train.items), images):
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

    def scores(item: int, image: NDArray[np.uint8]) -> Tensor:
        rows = _tokens(model, network_input(image, size_hw))
        maps: Tensor = (rows @ matrix).T.reshape(1, len(slots), *grid)
        return maps

    return evaluate_scores(val, scores, images=images)


def _tokens(model: Dedos, image: Tensor) -> Tensor:
    """Return float64 [N, 3 C + 1]: normalised tokens of the three taps, and a constant."""
    found = model.refined_tokens(image)
    parts = [F.layer_norm(one[0].float(), one.shape[2:]) for one in found]
    return torch.cat([*parts, torch.ones(len(parts[0]), 1)], dim=1).double()
