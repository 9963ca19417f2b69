"""The graph for words by example: beside the image graph, which stays as it is, and small."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_micro import CONTEXT, copied
from numpy.typing import NDArray
from onnx import external_data_helper

from dedos_deploy.bundle import Bundle
from dedos_deploy.errors import ParityError
from dedos_deploy.export import ExportOptions, TrainedModel, export_bundle
from dedos_deploy.export import bundle_text as text_module
from dedos_deploy.export import target_graph as target_module
from dedos_deploy.export.examples_graph import check_examples
from dedos_deploy.export.graph import tensor_bytes
from dedos_deploy.export.shared_weights import SHARED_FROM
from dedos_deploy.model import Dedos, freeze
from dedos_deploy.runtime import Segmenter

QUICK = ExportOptions(frame_count=1)


@pytest.fixture(scope="module")
def bundle(
    trained: TrainedModel,
    float_graph: onnx.ModelProto,
    text_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    def save(tower: Any, path: Path, *, context_length: int, matrices: str) -> Path:
        assert context_length == CONTEXT
        return Path(shutil.copyfile(text_file, path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target_module, "image_graph", lambda module, spec: copied(float_graph))
        patch.setattr(text_module, "save_text_tower", save)
        folder = tmp_path_factory.mktemp("examples")
        plain = export_bundle(trained, folder / "plain", options=QUICK)
        export_bundle(trained, folder / "learns", options=replace(QUICK, examples=True))
    with Bundle.open(plain.path) as without, Bundle.open(folder / "learns") as with_it:
        hashes = (one.manifest.files["model.onnx"] for one in (without, with_it))
        assert len(set(hashes)) == 1, "the image graph is the same, byte for byte"
    return folder / "learns"


def test_large_constants_lie_in_the_image_graph(bundle: Path) -> None:
    graph = onnx.load(bundle / "examples.onnx", load_external_data=False)
    inline = {
        tensor.name: tensor_bytes(tensor)
        for tensor in graph.graph.initializer
        if not external_data_helper.uses_external_data(tensor)
    }
    shared = len(graph.graph.initializer) - len(inline)
    large = {name: size for name, size in inline.items() if size >= SHARED_FROM}
    assert shared >= 20 and len(large) <= 2, large


def test_a_word_is_learned_by_it_and_runs_through_the_image_graph(bundle: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    mask = np.zeros((50, 70), dtype=bool)
    mask[10:30, 20:50] = True
    with Segmenter.load(bundle, classes="road,car", threads=1) as segmenter:
        learned = segmenter.learn("pallet", frame, mask, anyway=True)
        assert learned.added and segmenter.classes == ("road", "car", "pallet")
        assert abs(float(np.linalg.norm(learned.row)) - 1) < 1e-5
        found = segmenter.segment(frame).label_map == 2
    assert learned.margin == pytest.approx(found[mask].mean() - found[~mask].mean())


def test_a_graph_of_another_list_of_words_is_refused(
    bundle: Path, model: Dedos, base_text: NDArray[np.float32], frames: list[NDArray[np.uint8]]
) -> None:
    frozen = freeze(model, size_hw=model.config.size_hw)
    for module in (frozen.model.text_aggregation, frozen.model.mask_decoder):  # type: ignore[union-attr]
        for parameter in module.parameters():  # type: ignore[union-attr]
            parameter.data.neg_()
    with Bundle.open(bundle) as opened, pytest.raises(ParityError, match="leave --examples out"):
        check_examples(opened.path("examples.onnx"), frozen, opened.spec, base_text, frames[:1])
