"""Weights of the published Cityscapes net for the pretrained detail branch of `nano`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dedos_deploy.borders import foreign
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.files import read_regular
from dedos_deploy.model.mobile_branch import MobileBranch


def load_mobile_weights(branch: MobileBranch, path: Path, images: Sequence[Tensor]) -> None:
    """Copy the convolutions of an ONNX net into `branch` and fit its constants on pictures.

    path: the Cityscapes net as ONNX, `image` float32 [N, 3, H, W] RGB 0..255, whose last convolution
    is the classifier, which is left out; images: uint8 [1, H, W, 3] BGR.

    Raises BadInputError when the file is another net, naming the first layer that differs.
    """
    found = _convolutions(path)
    wanted = [module for module in branch.modules() if isinstance(module, nn.Conv2d)]
    if len(found) != len(wanted) + 1:
        raise BadInputError(
            f"{path} has {len(found)} convolutions, but the detail branch needs the DeepLab "
            f"MobileNet-EdgeTPU-slim net with {len(wanted) + 1}; convert that one"
        )
    for index, (module, (weight, bias)) in enumerate(zip(wanted, found, strict=False)):
        if weight.shape != module.weight.shape or module.bias is None:
            raise BadInputError(
                f"{path}: convolution {index} has weights {list(weight.shape)}, but the detail "
                f"branch needs {list(module.weight.shape)}; convert the Cityscapes net"
            )
        with torch.no_grad():
            # The branch sees BGR, the net saw RGB.
            module.weight.copy_(weight.flip(1) if index == 0 else weight)
            module.bias.copy_(bias)
    branch.fit_statistics(list(images))


def _convolutions(path: Path) -> list[tuple[Tensor, Tensor]]:
    onnx = require("onnx", extra="export", purpose="reading the weights of a net")

    def refusal(reason: str) -> BadInputError:
        return BadInputError(f"{path} is no ONNX net ({reason}); convert it with tflite_to_onnx.py")

    with foreign(refusal):
        graph = onnx.load_model_from_string(read_regular(path)).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}

    def constant(name: str) -> Tensor:
        if name not in tensors:
            raise BadInputError(f"{path}: weights {name!r} are not constants; convert it again")
        with foreign(refusal):
            return torch.from_numpy(onnx.numpy_helper.to_array(tensors[name]).copy())

    nodes = [node for node in graph.node if node.op_type == "Conv"]
    return [(constant(node.input[1]), constant(node.input[2])) for node in nodes]
