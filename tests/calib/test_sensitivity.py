"""Damage per layer: exact where it can be, beside brute force where it cannot."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from calib_model import copied
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

from dedos_deploy.calib.int8_error import quantized, quantized_layers, weight_step
from dedos_deploy.calib.placement import quantize, site_tensors
from dedos_deploy.calib.sensitivity import Sensitivity, SiteSensitivity, measure_sensitivity
from dedos_deploy.errors import BadInputError
from dedos_deploy.model import FrozenDedos

Frames = list[NDArray[np.uint8]]
FRAME = np.array([[[3, 200, 90], [14, 0, 255]]], np.uint8)
TEXT = np.ones((1, 4), np.float32)
VALID = np.ones(1, np.float32)


class OneScore(nn.Module):
    """Two layers and one score, so that a probe of ±1 is exact."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 5)
        self.second = nn.Linear(5, 1)
        self.unused = nn.Linear(5, 1)
        self.double()

    def forward(self, image: Any, text: Any, valid: Any) -> torch.Tensor:
        hidden = torch.tanh(self.first(image.reshape(1, 6).double() / 255))
        out: torch.Tensor = self.second(hidden).reshape(1, 1, 1, 1)
        return out


def _measure(module: nn.Module, frames: Frames, **options: Any) -> Sensitivity:
    defaults: dict[str, Any] = {
        "sites": ["first", "second"],
        "amax": {"first": 0.9, "second": 1.0},
        "probes": 1,
    }
    return measure_sensitivity(module, frames, TEXT, VALID, **(defaults | options))


def _rounded(values: NDArray[np.float64], step: Any) -> NDArray[np.float64]:
    return np.clip(np.rint(values / step), -128, 127) * step


def test_damage_of_one_score_is_the_equation_in_float64() -> None:
    """J_s δ_s by hand: both layers, both parts, with smoothing on the first."""
    module = OneScore()
    factors = np.array([2, 1, 0.5, 1, 4, 1])
    found = _measure(module, [FRAME], smoothing={"first": factors})
    x = FRAME.reshape(6) / 255.0
    first, second = (layer.weight.detach().numpy() for layer in (module.first, module.second))
    hidden = np.tanh(first @ x + module.first.bias.detach().numpy())
    score = float((second @ hidden + module.second.bias.detach().numpy())[0])

    def parts(w: Any, x: Any, f: Any, amax: float) -> tuple[Any, Any]:
        wf, xf = w * f, x / f
        steps = np.abs(wf).max(1, keepdims=True) / 127
        q, step = _rounded(wf, steps), amax / 127
        return (q - wf) @ xf, q @ (_rounded(xf, step) - xf)

    slope = second[0] * (1 - hidden**2)
    expected = {
        "first": [float(slope @ part) for part in parts(first, x, factors, 0.9)],
        "second": [float(part[0]) for part in parts(second, hidden, np.ones(5), 1.0)],
    }
    for item in found.sites:
        weight, activation = expected[item.site]
        assert item.weight == pytest.approx(weight**2 / score**2, rel=1e-9)
        assert item.activation == pytest.approx(activation**2 / score**2, rel=1e-9)
        assert item.damage == pytest.approx((weight + activation) ** 2 / score**2, rel=1e-9)
    both = sum(sum(pair) for pair in expected.values())
    assert found.together == pytest.approx(both**2 / score**2, rel=1e-9)
    assert found.signal == pytest.approx(score**2, rel=1e-9)


def test_hutchinson_comes_near_the_true_energy() -> None:
    """With many scores and many probes the estimate meets ‖J δ‖², computed row by row."""

    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.layer = nn.Linear(6, 8)
            self.head = nn.Linear(8, 40)
            self.double()

        def forward(self, image: Any, text: Any, valid: Any) -> torch.Tensor:
            out: torch.Tensor = self.head(self.layer(image.reshape(1, 6).double() / 255))
            return out.reshape(1, 1, 5, 8)

    module = Many()
    found = _measure(module, [FRAME], sites=["layer"], amax={"layer": 1.0}, probes=400)
    x = torch.from_numpy(FRAME.reshape(1, 6) / 255.0)
    (layer,) = quantized_layers(module, ["layer"], {"layer": 1.0}, {})
    delta = sum(layer.error(x)).detach()  # type: ignore[union-attr]
    moved = float((delta @ module.head.weight.detach().T).square().sum())
    scores = module(torch.from_numpy(FRAME)[None], None, None).detach()
    energy = float(scores.square().sum())
    assert found.sites[0].damage == pytest.approx(moved / energy, rel=0.25)


def test_the_two_parts_are_the_whole_error() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2).double()
    x = torch.randn(1, 4, 9, 8, dtype=torch.float64)
    (item,) = quantized_layers(nn.ModuleDict({"conv": layer}), ["conv"], {"conv": 2.5}, {})
    weight_part, activation_part = item.error(x)
    rounded = quantized(layer.weight, weight_step(layer.weight))
    int8 = torch.nn.functional.conv2d(
        quantized(x, torch.tensor(2.5 / 127, dtype=torch.float64)), rounded, None, 2, 1, 1, 2
    )
    exact = torch.nn.functional.conv2d(x, layer.weight, None, 2, 1, 1, 2)
    torch.testing.assert_close(weight_part + activation_part, int8 - exact)


def test_ranks_layers_as_brute_force_does(
    frozen: FrozenDedos,
    float_graph: onnx.ModelProto,
    model_frames: Frames,
    model_text: NDArray[np.float32],
    run: Any,
    ranges_of: Any,
) -> None:
    """Every layer quantized alone in the deployed graph, against one pass of gradients."""
    ranges = ranges_of(float_graph)
    amax: dict[str, float] = {}
    for each in site_tensors(float_graph):
        amax[each.site] = max(amax.get(each.site, 0.0), ranges[each.activation])
    amax = {site: value for site, value in amax.items() if value > 0}
    found = measure_sensitivity(
        frozen,
        model_frames,
        model_text,
        np.ones(len(model_text), np.float32),
        sites=list(amax),
        amax=amax,
        probes=8,
    )
    expected = run(float_graph).astype(np.float64)
    truth = []
    for site in amax:
        graph = copied(float_graph)
        # TensorRT's form, as the estimate has it: only what enters is quantized.
        quantize(graph, ranges, {site}, target="rtx")
        truth.append(float(np.square(run(graph) - expected).sum() / np.square(expected).sum()))
    rank = spearmanr([item.damage for item in found.sites], truth).statistic
    assert rank > 0.8
    ratio = np.array([item.damage for item in found.sites]) / np.array(truth)
    assert 0.3 < np.median(ratio) < 3


def test_order_of_frames_changes_no_bit_and_the_seed_does() -> None:
    module = OneScore()
    frames = [FRAME, FRAME[:, ::-1].copy(), FRAME // 2]
    first, again = _measure(module, frames), _measure(module, frames[::-1])
    assert first == again
    assert all(p.requires_grad for p in module.parameters())
    assert not module.first._forward_hooks


def test_finer_steps_hurt_less() -> None:
    """Property: a range four times as large has larger activation damage."""
    module = OneScore()
    frames = [np.random.default_rng(i).integers(0, 256, (1, 2, 3), np.uint8) for i in range(8)]
    near = _measure(module, frames, amax={"first": 1.0, "second": 1.0})
    far = _measure(module, frames, amax={"first": 16.0, "second": 16.0})
    for one, other in zip(near.sites, far.sites, strict=True):
        assert one.activation < other.activation and one.weight == other.weight


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sites": ["frist"], "amax": {"frist": 1.0}}, "no module 'frist', did you mean 'first'"),
        ({"sites": ["first"], "amax": {}}, "no range for site 'first'; calibrate it"),
        ({"amax": {"first": 0.0, "second": 1.0}}, r"range of site 'first' is 0\.0, a positive"),
        ({"amax": {"first": float("nan"), "second": 1.0}}, "range of site 'first' is nan"),
        ({"sites": ["unused"], "amax": {"unused": 1.0}}, "none of the sites leads to the scores"),
        (
            {"sites": ["first", "unused"], "amax": {"first": 1.0, "unused": 1.0}},
            "'unused' is not run by the model",
        ),
        ({"probes": 0}, "at least one frame, one probe and one site, got 1, 0 and 2"),
        ({"smoothing": {"first": np.ones(3)}}, r"shape \(3,\); one factor per input channel"),
        ({"smoothing": {"first": np.zeros(6)}}, "a factor that is not positive"),
        ({"smoothing": {"third": np.ones(6)}}, "smoothing of 'third', which is not among the"),
    ],
)
def test_what_cannot_be_measured(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        _measure(OneScore(), [FRAME], **options)


def test_a_silent_model_tells_nothing() -> None:
    module = OneScore()
    nn.init.zeros_(module.second.weight)
    nn.init.zeros_(module.second.bias)
    with pytest.raises(BadInputError, match=r"the scores have energy 0\.0"):
        _measure(module, [FRAME])


def test_a_sensitivity_as_json() -> None:
    found = _measure(OneScore(), [FRAME])
    values = json.loads(json.dumps(asdict(found)))
    assert [SiteSensitivity(**site) for site in values.pop("sites")] == list(found.sites)
    assert Sensitivity(found.sites, **values) == found
    twice = [SiteSensitivity("a", 1, 1, 1)] * 2
    with pytest.raises(BadInputError, match="names a site twice"):
        Sensitivity(tuple(twice), 1, 1, 1, 1, 0)
    with pytest.raises(BadInputError, match="no sensitivity was measured for 'frist'"):
        found.damage("frist")
