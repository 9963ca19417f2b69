"""open_engine: every engine by the name of its target."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.runtime.engines.contract import Engine, EngineOptions
from dedos_deploy.spec import ENGINES
from dedos_deploy.threads import usable_threads

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle


def _open_cpu(bundle: Bundle, options: EngineOptions) -> Engine:
    from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine

    return OnnxEngine(bundle.path("model.onnx"), bundle.spec, threads=options.threads)


def _open_openvino(bundle: Bundle, options: EngineOptions) -> Engine:
    from dedos_deploy.runtime.engines.openvino_choice import OpenVinoChoice

    return OpenVinoChoice(bundle, options).open()


def _open_cuda(bundle: Bundle, options: EngineOptions) -> Engine:
    from dedos_deploy.runtime.gpu.onnx_cuda_engine import OnnxCudaEngine

    return OnnxCudaEngine(bundle.path("model.onnx"), bundle.spec, gpu=options.gpu)


def _open_tensorrt(target: str) -> Open:
    def open_it(bundle: Bundle, options: EngineOptions) -> Engine:
        from dedos_deploy.runtime.gpu.cuda import Cuda
        from dedos_deploy.runtime.gpu.engine_store import EngineStore

        cuda = Cuda.open(options.gpu)
        return EngineStore(bundle, target, cuda=cuda, on_progress=options.on_progress).open()

    return open_it


Open = Callable[["Bundle", EngineOptions], Engine]


_OPEN: dict[str, Open] = {
    "cpu": _open_cpu,
    "openvino": _open_openvino,
    "cuda": _open_cuda,
    "trt": _open_tensorrt("trt"),
    "rtx": _open_tensorrt("rtx"),
}


def open_engine(
    bundle: Bundle, target: str = "cpu", options: EngineOptions | None = None
) -> Engine:
    """Return the engine of `bundle` for `target`, one of `spec.ENGINES`.

    An engine of TensorRT is taken from the bundle or the user's cache, or built here. That and OpenVINO
    are compared with ONNX Runtime before their first use on a device.

    Raises BadInputError for an unknown target or a bundle of another one, MissingExtraError,
    EngineError, ParityError or BadBundleError when the graph cannot be loaded.
    """
    options = options or EngineOptions()
    if target not in _OPEN:
        raise BadInputError(
            f"unknown engine {target!r}{nearest(target, ENGINES)}; choose one of "
            f"{', '.join(ENGINES)}"
        )
    usable_threads(options.threads)  # engines that start none refuse nonsense, too
    if options.gpu < 0:
        raise BadInputError(f"the index of a GPU is 0 or more, not {options.gpu}")
    return _OPEN[target](bundle, options)
