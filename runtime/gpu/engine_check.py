"""Whether a TensorRT engine that was loaded is the graph of a bundle."""

from __future__ import annotations

from dedos_deploy.errors import EngineError
from dedos_deploy.runtime.gpu import vendor
from dedos_deploy.spec import SLOT_BUCKETS, GraphSpec, TensorSpec

DTYPES = {"UINT8": "uint8", "FLOAT": "float32", "HALF": "float16"}


def check_engine(engine: vendor.CudaEngine, spec: GraphSpec, name: str) -> None:
    """Raise EngineError when profiles or tensors are not those of `spec`; name: for messages."""
    profiles = engine.num_optimization_profiles
    if profiles != len(SLOT_BUCKETS):
        raise EngineError(
            f"{name} has {profiles} profiles, {len(SLOT_BUCKETS)} are needed (K = "
            f"{', '.join(map(str, SLOT_BUCKETS))}); export the bundle again"
        )
    for tensor in (*spec.inputs, *spec.outputs):
        _check_tensor(engine, tensor, name)


def _check_tensor(engine: vendor.CudaEngine, tensor: TensorSpec, name: str) -> None:
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    if tensor.name not in names:
        raise EngineError(
            f"{name} has the tensors {', '.join(sorted(names))}, but the bundle promises "
            f"{tensor.name!r}; export it again"
        )
    dtype = DTYPES.get(engine.get_tensor_dtype(tensor.name).name, "another type")
    shape = list(engine.get_tensor_shape(tensor.name))
    fits = len(shape) == len(tensor.shape) and all(
        want in ("K", have) for have, want in zip(shape, tensor.shape, strict=True)
    )
    if dtype != tensor.dtype or not fits:
        raise EngineError(
            f"tensor {tensor.name!r} of {name} is {dtype} {shape}, but the bundle promises "
            f"{tensor.dtype} {list(tensor.shape)}; export it again"
        )
