"""A server that is killed, and models that change under it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from triton_server import Server, ask, exported, serving
from tritonclient.utils import InferenceServerException

from dedos_deploy import Segmenter


def test_a_server_that_was_killed_answers_as_before(
    frame: np.ndarray, segmenter: Segmenter, tmp_path: Path
) -> None:
    repository = exported(tmp_path / "models", "--triton-classes", "road,car|automobile,sky")
    expected = segmenter.segment(frame).label_map
    with serving(repository) as server:
        assert len(server.stubs()) == 1
        answers = [labels_of(server, frame)]
        server.stop(signal.SIGKILL)
        server.start()
        answers.append(labels_of(server, frame))
    for labels in answers:
        np.testing.assert_array_equal(labels, expected)


def labels_of(server: Server, frame: np.ndarray) -> Any:
    with server.client("http") as client:
        return ask(client, frame)["label_map"]


def test_a_model_that_is_written_anew_is_loaded_anew(frame: np.ndarray, tmp_path: Path) -> None:
    repository = exported(tmp_path / "models", "--triton-classes", "road")
    classes = repository / "demo/1/classes.txt"
    with serving(repository) as server, server.client("http") as client:
        assert ask(client, frame)["class_names"].tolist() == [b"road"]
        exported(repository, "--triton-classes", "tree,sky", "--overwrite")
        client.load_model("demo")
        assert ask(client, frame)["class_names"].tolist() == [b"tree", b"sky"]
        classes.write_text("tree\ntree\n")
        with pytest.raises(InferenceServerException, match="a word occurs twice, in line 1 of"):
            client.load_model("demo")
        # What was loaded goes on.
        assert ask(client, frame)["class_names"].tolist() == [b"tree", b"sky"]
