"""The contract that every engine fulfils, and the table of engines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.spec import GraphSpec, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self


Tensors = dict[str, NDArray[Any]]


class Engine(Protocol):
    """A compiled graph of `spec`, for one caller at a time.

    spec: names, shapes and dtypes of its tensors; max_slots: largest K it takes, None for any.
    """

    @property
    def spec(self) -> GraphSpec: ...

    @property
    def max_slots(self) -> int | None: ...

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run `image`, `text` and `valid`, return `scores`.

        The returned arrays are overwritten by the next call; copy what must outlive it.
        Raises EngineError.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


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
    shape = tuple(slots if dim == "K" else dim for dim in tensor.shape)
    if array.dtype != tensor.dtype or array.shape != shape:
        raise BadInputError(
            f"engine input {tensor.name!r} must be {tensor.dtype} {list(tensor.shape)} with "
            f"K={slots}, not {array.dtype} {list(array.shape)}"
        )
    if not array.flags.c_contiguous:
        raise BadInputError(
            f"engine input {tensor.name!r} must be C-contiguous; pass np.ascontiguousarray of it"
        )


@dataclass(frozen=True)
class EngineOptions:
    """threads: CPU threads, at most one per usable core, None for as many; gpu: index of the GPU;
    on_progress: noted what is being done while an engine is built or checked, many times a
    second."""

    threads: int | None = None
    gpu: int = 0
    on_progress: Progress = QUIET
