"""A checkpoint as an engine: the torch model behind the contract that ONNX Runtime fulfils."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, require
from dedos_deploy.evaluation.looking import tiling_identity
from dedos_deploy.evaluation.model_facts import model_facts
from dedos_deploy.files import sha256_of_file
from dedos_deploy.runtime.engines.contract import Engine
from dedos_deploy.runtime.engines.tensors import Tensors, check_inputs
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.slots import Thresholds
from dedos_deploy.runtime.tiling import Tiling
from dedos_deploy.spec import Background, GraphSpec
from dedos_deploy.text.templates import prompt_templates
from dedos_deploy.threads import usable_threads
from dedos_deploy.vocabulary import Vocabulary

if TYPE_CHECKING:
    from dedos_deploy.model import Dedos


class TorchEngine(Engine):
    """The image graph of a model in eval mode, on `device`, in float32."""

    def __init__(self, model: Dedos, spec: GraphSpec, device: str) -> None:
        self.spec = spec
        self._model, self._device = model.to(device), device

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run `image`, `text` and `valid`, return `scores`."""
        import torch

        check_inputs(self.spec, inputs, self.max_slots)
        with torch.inference_mode():
            image, text, valid = (
                torch.from_numpy(inputs[name]).to(self._device)
                for name in ("image", "text", "valid")
            )
            return {"scores": self._model(image, text, valid).float().cpu().numpy()}

    def close(self) -> None:
        """Nothing is held that outlives the object."""


def open_torch_segmenter(
    path: Path,
    vocabulary: Vocabulary,
    *,
    size_hw: tuple[int, int] | None,
    background: Background,
    threshold: float,
    template: str | None,
    device: str,
    threads: int | None,
    tiling: Tiling,
) -> tuple[Segmenter, dict[str, Any], Sequence[str]]:
    """Return a Segmenter that runs the checkpoint in `path`, what decides its answers, and the words
    that masks taught it.

    Raises BadInputError for a checkpoint, size, template or device that cannot be used.
    """
    require("torch", extra="export", purpose="evaluating a checkpoint")
    import torch

    from dedos_deploy.model import load_checkpoint

    if background == "negatives":
        raise BadInputError(
            "a checkpoint ships no base vocabulary to take negatives from; choose --background "
            "none or threshold, or export it"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInputError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}); choose cpu or cuda"
        ) from error
    if threads is not None and device == "cpu":
        torch.set_num_threads(usable_threads(threads))
    model, extra = load_checkpoint(path)
    size = size_hw or tuple(extra.get("size_hw", model.config.size_hw))
    model.config.check_size(size)
    chosen = template or str(extra.get("template", "single"))
    prompt_templates(chosen)
    sha256 = sha256_of_file(path)
    spec = GraphSpec(size[0], size[1], model.config.clip.text_width)
    segmenter = Segmenter(
        TorchEngine(model, spec, device),
        _Encoder(model, chosen),
        classes=vocabulary,
        thresholds=Thresholds({}, threshold, enabled=background != "none"),
        threads=threads,
        model_sha256=sha256,
        explain=True,
        tiling=tiling,
    )
    identity = {
        "checkpoint": sha256,
        "size_hw": list(size),
        "template": chosen,
        "background": background,
        "threshold": threshold if background != "none" else None,
        "model": model_facts(model.config, extra.get("sources", ()), size),
        **tiling_identity(tiling),
    }
    return segmenter, identity, extra.get("words", ())


class _Encoder:
    """Words to unit rows float32 [N, D] by the checkpoint's own text tower."""

    def __init__(self, model: Dedos, template: str) -> None:
        self._model, self._template = model, template

    def __call__(self, words: Sequence[str], **_: object) -> NDArray[np.float32]:
        import torch

        from dedos_deploy.model.word_embeddings import WordEmbeddings

        with torch.no_grad():
            rows = WordEmbeddings(self._model, words, template=self._template, tuned=False)
            found: NDArray[np.float32] = rows(range(len(words))).cpu().numpy()
        return found
