"""A graph of four nodes, whose tensors numpy computes too, and pictures to run it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from calib_micro import HEIGHT, TEXT_WIDTH, WIDTH, micro_graph, picture
from numpy.typing import NDArray

from dedos_deploy.calib.collect import CalibrationInputs
from dedos_deploy.spec import GraphSpec


@pytest.fixture
def spec() -> GraphSpec:
    return GraphSpec(HEIGHT, WIDTH, TEXT_WIDTH)


@pytest.fixture
def graph() -> onnx.ModelProto:
    return micro_graph()


@pytest.fixture
def frames() -> list[NDArray[np.uint8]]:
    """Eleven different pictures at the network size: not a multiple of the frames between saves."""
    return [picture(seed, (HEIGHT, WIDTH)) for seed in range(11)]


@pytest.fixture
def text() -> NDArray[np.float32]:
    rows = np.random.default_rng(1).normal(size=(5, TEXT_WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def inputs(
    graph: onnx.ModelProto,
    spec: GraphSpec,
    frames: list[NDArray[np.uint8]],
    text: NDArray[np.float32],
) -> CalibrationInputs:
    return CalibrationInputs(graph, spec, frames, text)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Forty pictures of growing brightness, in two folders; number i has a mean of about 6 i."""
    import cv2

    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for index in range(40):
        place = folder / "deep" if index % 2 else folder
        grey = picture(index, (20, 30)) // 10 + np.uint8(5 * index)
        cv2.imwrite(str(place / f"{index}.png"), grey)
    return folder
