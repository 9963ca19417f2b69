"""Several banks mixed by the picture's CLS (V-mixed): how sets are read, and what their means are."""

from __future__ import annotations

import numpy as np
import torch
from denoiser import CHANNELS, TinyDenoiser
from micro import micro_config
from torch import Tensor

from dedos_deploy.model import Dedos, build_model
from dedos_deploy.training.bank import calibrate_bank
from dedos_deploy.training.components import config_for
from dedos_deploy.training.denoising import DenoisingLearning, set_means, set_weights
from dedos_deploy.training.evaluate import network_input

SETS = 3


def f64(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def mixed_model() -> Dedos:
    model = build_model(config_for(micro_config(), "V-mixed", 3, SETS), seed=1)
    with torch.no_grad():
        model.picture_queries.logits.weight.normal_(std=0.5)  # type: ignore[union-attr]
    return model


def mixed_learning(model: Dedos) -> DenoisingLearning:
    torch.manual_seed(0)
    learning = DenoisingLearning(model.config, CHANNELS, steps=3)
    for parameter in learning.reader.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return learning


def pictures(count: int, size_hw: tuple[int, int] = (32, 32)) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, *size_hw, 3), generator=generator, dtype=torch.uint8)


def test_sets_are_read_as_if_each_were_alone() -> None:
    model, denoiser = mixed_model(), TinyDenoiser()
    learning = mixed_learning(model)
    features = denoiser.denoise(denoiser.encode(pictures(2))).features
    stages = learning.read(model, features)
    assert stages.shape == (2, SETS, 3, 6, 16)
    queries = model.proxy_queries.stage_queries()
    for index in range(SETS):
        alone = learning.reader(queries[index], features)
        torch.testing.assert_close(stages[:, index], alone, atol=1e-5, rtol=1e-4)


def test_the_mean_of_a_set_is_weighted_by_who_asks_with_it() -> None:
    model = mixed_model()
    learning = mixed_learning(model)
    first, second = torch.randn(2, *learning.stage_mean.shape)
    # The first update is all there is, whoever asked.
    learning.update_mean(first, torch.tensor([1 / 6, 1 / 3, 1 / 2]))
    torch.testing.assert_close(learning.stage_mean, first)
    # The second update has a rate of 1 - 1/10 for a set as often asked as others; half of that for one
    # with half of its share, and never more than all of it.
    learning.update_mean(second, torch.tensor([1 / 6, 1 / 3, 1 / 2]))
    for index, rate in enumerate((0.45, 0.9, 0.9)):
        expected = first[index] + rate * (second[index] - first[index])
        torch.testing.assert_close(learning.stage_mean[index], expected)


def test_a_set_that_nobody_asks_with_stays_as_it_is() -> None:
    """A gate that is sharp enough rounds to 0, of which there is no mean."""
    learning = mixed_learning(mixed_model())
    first = torch.randn(learning.stage_mean.shape)
    learning.update_mean(first, torch.full((SETS,), 1 / SETS))
    shares = torch.tensor([0.0, 2.0, 1.0])
    sums = first * shares[:, None, None, None] + shares[:, None, None, None]
    learning.update_mean(set_means(sums, shares), shares / 3)
    torch.testing.assert_close(learning.stage_mean[0], first[0])
    torch.testing.assert_close(learning.stage_mean[1], first[1] + 0.9)


def test_a_calibrated_set_is_the_mean_of_the_pictures_that_ask_with_it() -> None:
    """Files have sizes of their own; the model is shown them at the network's, as in deployment."""
    model, denoiser, images = mixed_model(), TinyDenoiser(), pictures(4, (48, 80))
    learning, size_hw = mixed_learning(model), (32, 24)
    batches = [images[:3], images[3:]]
    found = calibrate_bank(model, learning, denoiser, batches, 4, size_hw=size_hw)
    stages = learning.read(model, denoiser.denoise(denoiser.encode(images)).features)
    shown = torch.cat([network_input(image.numpy(), size_hw) for image in images])
    g = f64(set_weights(model, shown, model.proxy_queries.global_queries(stages)))
    np.testing.assert_allclose(g.sum(1), 1, atol=1e-6)
    assert np.ptp(g, axis=0).max() > 0.01
    expected = np.einsum("bm,bm...->m...", g, f64(stages)) / g.sum(0)[:, None, None, None]
    np.testing.assert_allclose(f64(found), expected, atol=1e-5)
