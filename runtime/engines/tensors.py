"""What goes into an engine and comes out of it: arrays by the names of the graph's tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, EngineError, listed
from dedos_deploy.spec import GraphSpec, TensorSpec

Tensors = dict[str, NDArray[Any]]

Infer = Callable[[Mapping[str, NDArray[Any]]], Tensors]
"""What runs a graph: its inputs in, its outputs out."""


class OutputArrays:
    """Arrays for the outputs of a graph on the host, which every run overwrites; new for another K."""

    def __init__(self, spec: GraphSpec) -> None:
        self._specs = spec.outputs
        self._arrays: Tensors = {}

    def of(self, slots: int) -> Tensors:
        """Return an array per output of a run with so many slots, by name."""
        for tensor in self._specs:
            shape = shape_for(tensor, slots)
            if tensor.name not in self._arrays or self._arrays[tensor.name].shape != shape:
                self._arrays[tensor.name] = np.empty(shape, dtype=tensor.dtype)
        return dict(self._arrays)


def shape_for(tensor: TensorSpec, slots: int) -> tuple[int, ...]:
    """Return the shape of a tensor in a run with so many slots."""
    return tuple(slots if dim == "K" else int(dim) for dim in tensor.shape)


def check_inputs(spec: GraphSpec, inputs: Mapping[str, NDArray[Any]], max_slots: int | None) -> int:
    """Return the number of slots K of `inputs` after checking names, dtypes and shapes.

    Raises BadInputError naming the tensor, what it is and what it should be.
    """
    expected = {tensor.name: tensor for tensor in spec.inputs}
    if inputs.keys() != expected.keys():
        raise BadInputError(
            f"the engine takes the inputs {', '.join(expected)}, not {', '.join(inputs) or 'none'}"
        )
    slots = len(inputs["valid"]) if inputs["valid"].ndim else 0
    for name, tensor in expected.items():
        _check_tensor(tensor, inputs[name], slots)
    if slots < 1 or (max_slots is not None and slots > max_slots):
        limit = "at least 1" if max_slots is None else f"1 to {max_slots}"
        raise BadInputError(f"the engine takes {limit} text slots, not {slots}")
    return slots


def _check_tensor(tensor: TensorSpec, array: NDArray[Any], slots: int) -> None:
    shape = shape_for(tensor, slots)
    if array.dtype != tensor.dtype or array.shape != shape:
        raise BadInputError(
            f"engine input {tensor.name!r} must be {tensor.dtype} {list(tensor.shape)} with "
            f"K={slots}, not {array.dtype} {list(array.shape)}"
        )
    if not array.flags.c_contiguous:
        raise BadInputError(
            f"engine input {tensor.name!r} must be C-contiguous; pass np.ascontiguousarray of it"
        )


def check_tensors(
    found: Mapping[str, tuple[str, list[Any]]], wanted: Sequence[TensorSpec], model: str
) -> None:
    """Raise EngineError when the tensors of a loaded graph are not those that are wanted.

    found: dtype and shape by name, anything but a number for a dynamic side; model: the graph's file.
    """
    if found.keys() != {tensor.name for tensor in wanted}:
        raise EngineError(
            f"{model} has the tensors {listed(found)}, but the bundle promises "
            f"{', '.join(tensor.name for tensor in wanted)}; export it again"
        )
    for tensor in wanted:
        dtype, shape = found[tensor.name]
        shape_fits = len(shape) == len(tensor.shape) and all(
            not isinstance(have, int) or have == want
            for have, want in zip(shape, tensor.shape, strict=True)
        )
        if dtype != tensor.dtype or not shape_fits:
            raise EngineError(
                f"tensor {tensor.name!r} of {model} is {dtype} [{listed(map(str, shape))}], but the "
                f"bundle promises {tensor.dtype} {list(tensor.shape)}; export it again"
            )
