"""What `model.py` of a Triton model repository names: `TritonPythonModel`.

Triton's Python backend makes one for every instance of the model, each in a process of its own, and
hands it one request at a time.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dedos_deploy.errors import BadInputError, DedosError, UnfinishedError
from dedos_deploy.runtime.segmenter import Segmenter
from dedos_deploy.runtime.serving.triton_answers import Answers, Asked
from dedos_deploy.threads import usable_threads
from dedos_deploy.triton_model import (
    BACKGROUND,
    BUNDLE,
    CLASSES,
    CLASSES_FILE,
    ENGINE,
    IMAGE,
    PICTURE,
    WORDS_FILE,
)

_GRACE_S = 5
"""Time of an instance to end by itself after its server was killed."""


class TritonPythonModel:
    """An instance of the model, as Triton's Python backend calls it."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle of this version on the device of this instance.

        args: Triton's. Raises TritonModelException with our sentence.
        """
        from dedos_deploy import _native

        # Killed before it takes an answer, Triton leaves its backend waiting for ever, GIL in hand.
        _native.end_with_parent(_GRACE_S)
        self._triton = importlib.import_module("triton_python_backend_utils")
        with contextlib.ExitStack() as opened:
            try:
                segmenter = opened.enter_context(open_segmenter(args))
            except DedosError as error:
                raise self._triton.TritonModelException(str(error)) from error
            self._answers = opened.enter_context(Answers(segmenter))
            self._closing = opened.pop_all()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return a response for each request."""
        return [self._response(request) for request in requests]

    def finalize(self) -> None:
        """Close the bundle; Triton ends the process then."""
        self._closing.close()

    def _response(self, request: Any) -> Any:
        triton = self._triton
        try:
            found = self._answers.answer(self._asked(request))
        except DedosError as error:
            told = triton.TritonError(str(error), self._code(error))
            return triton.InferenceResponse(error=told)
        tensors = [triton.Tensor(tensor.name, values) for tensor, values in found.items()]
        return triton.InferenceResponse(output_tensors=tensors)

    def _asked(self, request: Any) -> Asked:
        inputs = {
            tensor: found.as_numpy()
            for tensor in (IMAGE, PICTURE, CLASSES)
            if (found := self._triton.get_input_tensor_by_name(request, tensor.name)) is not None
        }
        single = {tensor: inputs[tensor][0] for tensor in (PICTURE, CLASSES) if tensor in inputs}
        parameters = json.loads(request.parameters() or "{}")
        outputs = frozenset(request.requested_output_names())
        return Asked(
            inputs.get(IMAGE), single.get(PICTURE), single.get(CLASSES), parameters, outputs
        )

    def _code(self, error: DedosError) -> Any:
        codes = self._triton.TritonError
        if isinstance(error, UnfinishedError):
            return codes.UNAVAILABLE
        return codes.INVALID_ARG if isinstance(error, BadInputError) else codes.INTERNAL


def open_segmenter(args: Mapping[str, str]) -> Segmenter:
    """Return the segmenter of a version of a model, for one of its instances.

    args: as Triton gives them to `initialize`. The cores of this machine are shared by the instances
    of the CPU. Raises BadInputError, BadBundleError and EngineError.
    """
    config = json.loads(args["model_config"])
    version = Path(args["model_repository"], args["model_version"])
    words = version / WORDS_FILE
    on_cpu = args["model_instance_kind"] == "CPU"
    instances = sum(
        int(group["count"]) for group in config["instance_group"] if group["kind"] == "KIND_CPU"
    )
    return Segmenter.load(
        version / BUNDLE,
        classes=words if words.exists() else version / CLASSES_FILE,
        engine=_parameter(config, ENGINE),
        background=_parameter(config, BACKGROUND),
        threads=max(1, usable_threads() // instances) if on_cpu else None,
        gpu=0 if on_cpu else int(args["model_instance_device_id"]),
    )


def _parameter(config: Mapping[str, Any], name: str) -> Any:
    """Return a parameter of the model's configuration, which people edit."""
    found = (config.get("parameters") or {}).get(name, {}).get("string_value")
    if not found:
        raise BadInputError(
            f"config.pbtxt has no parameter {name!r} with a string_value; add it, or make the model "
            "repository again with dedos-export --triton"
        )
    return found
