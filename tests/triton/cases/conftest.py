"""One server with two instances for all cases that leave it as it was."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from dedos_deploy import Segmenter
from dedos_deploy.scenes import render_image

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from triton_server import Server, exported, serving  # noqa: E402

CLASSES = "road,car|automobile,sky"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    words = ("--triton-classes", CLASSES, "--triton-instances", "2")
    with serving(exported(tmp_path_factory.mktemp("triton") / "models", *words)) as found:
        yield found


@pytest.fixture(scope="session")
def segmenter() -> Iterator[Segmenter]:
    with Segmenter.load("demo", classes=CLASSES, threads=1) as found:
        yield found


@pytest.fixture(scope="session")
def frame() -> np.ndarray:
    return render_image("street", seed=5, size_hw=(120, 160))[0]


@pytest.fixture(scope="session")
def jpeg(frame: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", frame)[1].tobytes()
