"""open_engine: every engine by the name of its target."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dedos_deploy.errors import BadInputError, nearest
from dedos_deploy.runtime.engines.batched import BatchedEngine
from dedos_deploy.runtime.engines.contract import Engine, EngineOptions
from dedos_deploy.spec import ENGINES
from dedos_deploy.threads import usable_threads

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle, BundleGraph


def _open_cpu(_: Bundle, graph: BundleGraph, options: EngineOptions) -> Engine:
    from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine

    return OnnxEngine(graph.path, graph.spec, threads=options.threads)


def _open_openvino(bundle: Bundle, graph: BundleGraph, options: EngineOptions) -> Engine:
    from dedos_deploy.runtime.engines.openvino_choice import OpenVinoChoice

    return OpenVinoChoice(bundle, graph, options).open()


def _open_cuda(_: Bundle, graph: BundleGraph, options: EngineOptions) -> Engine:
    from dedos_deploy.runtime.gpu.onnx_cuda_engine import OnnxCudaEngine

    return OnnxCudaEngine(graph.path, graph.spec, gpu=options.gpu)


def _open_tensorrt(target: str) -> Open:
    def open_it(bundle: Bundle, graph: BundleGraph, options: EngineOptions) -> Engine:
        from dedos_deploy.runtime.gpu.cuda import Cuda
        from dedos_deploy.runtime.gpu.engine_store import EngineStore

        cuda = Cuda.open(options.gpu)
        progress = options.on_progress
        return EngineStore(bundle, target, graph=graph, cuda=cuda, on_progress=progress).open()

    return open_it


Open = Callable[["Bundle", "BundleGraph", EngineOptions], Engine]


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
    are compared with ONNX Runtime before their first use on a device. With `options.batch` it has a
    graph for as many frames per run, and for all fewer that the bundle has one for.

    Raises BadInputError for an unknown target, a bundle of another one, or a batch that the bundle
    does not hold, MissingExtraError,
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
    if options.batch == 1:
        return _OPEN[target](bundle, bundle.graph(), options)
    bundle.graph(options.batch)  # refuses one that is not there before any other is opened
    with ExitStack() as opened:
        engines = []
        for batch in bundle.batches:
            if batch <= options.batch:
                engines.append(_OPEN[target](bundle, bundle.graph(batch), options))
                opened.callback(engines[-1].close)
        opened.pop_all()
    return BatchedEngine(engines)
