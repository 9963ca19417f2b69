"""The engine that runs TensorRT's two flavours: one stream, one context and graph per slot bucket,
everything allocated, run and captured before the first frame."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import DedosError, EngineError
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.engines.contract import Engine
from dedos_deploy.runtime.engines.tensors import Tensors, check_inputs
from dedos_deploy.runtime.gpu import vendor
from dedos_deploy.runtime.gpu.cuda import Cuda, Graph, close_all
from dedos_deploy.runtime.gpu.cuda_calls import DeviceLostError
from dedos_deploy.runtime.gpu.device_labeller import DeviceLabeller
from dedos_deploy.runtime.gpu.device_runs import DeviceRunLabeller, on_device
from dedos_deploy.runtime.gpu.engine_check import check_engine
from dedos_deploy.runtime.gpu.flavours import Flavour, is_capturable, new_context, scratch_bytes
from dedos_deploy.runtime.gpu.kernels_file import kernels_file
from dedos_deploy.runtime.gpu.library import Library
from dedos_deploy.runtime.gpu.runtime_cache import KeptRuntimeCache
from dedos_deploy.runtime.gpu.tensor_memory import TensorMemory
from dedos_deploy.runtime.labelling import Labeller, RunLabeller
from dedos_deploy.spec import SLOT_BUCKETS, GraphSpec, bucket_for

_LOG = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


@dataclass(eq=False)
class _Bucket:
    """What runs K slots: a context with its shapes and addresses set, and its graph, if any."""

    context: vendor.ExecutionContext
    graph: Graph | None = None


class TensorRtEngine(Engine):
    """An engine of `spec` on one GPU, for one frame at a time.

    Text of up to 256 words is padded to the smallest slot bucket that holds it. All device memory
    is allocated and every bucket run once when the engine is loaded, so that other words never cost
    a frame more than a copy. Work of a bucket is captured into a CUDA graph where the library
    allows it; `graphs` tells for which buckets, and why not for others.
    """

    max_slots = SLOT_BUCKETS[-1]
    labels_on_device = True

    def __init__(
        self,
        trt: ModuleType,
        flavour: Flavour,
        engine: bytes,
        spec: GraphSpec,
        cuda: Cuda,
        *,
        name: str = "engine",
        runtime_cache: Path | None = None,
        on_progress: Progress = QUIET,
    ) -> None:
        """Load a serialized engine and make all its slot buckets ready.

        name: for messages; runtime_cache: file in which TensorRT for RTX keeps what it compiled on
        this device, None to compile it anew, which takes long for every bucket; on_progress: noted
        which bucket is made ready.

        Raises EngineError when it was built for another GPU or version, is damaged, is another
        graph, or the GPU has too little memory, which names how much was needed.
        """
        self.spec = spec
        self.cuda = cuda
        self.graphs: dict[int, str] = {}
        self.text_of: object = None
        self._labeller_facts: Callable[[], dict[str, Any]] = dict
        self._trt = trt
        self._library = Library(trt, flavour)
        self._flavour = flavour
        self._name = name
        self._cache = KeptRuntimeCache(runtime_cache)
        self._running = threading.Lock()
        self._lost = False
        self._memory = TensorMemory(cuda)
        self._buckets: dict[int, _Bucket] = {}
        self._bucket = 0
        self._runtime: vendor.Runtime | None = None
        self._engine: vendor.CudaEngine | None = None
        try:
            self._load(engine)
            self._allocate()
            self._prepare_all(on_progress)
        except BaseException:
            self.close()
            raise

    def infer(self, inputs: Mapping[str, NDArray[Any]]) -> Tensors:
        """Run the graph on host arrays; see Engine.infer."""
        slots = check_inputs(self.spec, inputs, self.max_slots)
        with self.exclusive():
            self.set_text(inputs["text"], inputs["valid"])
            image = self._memory.host(self.spec.image)
            np.copyto(image, inputs["image"])
            self.cuda.upload(self.image.pointer, image, self.stream)
            self.enqueue()
            scores = self._memory.host(self.spec.scores)
            bucket = bucket_for(slots)
            shape = (self.spec.batch, bucket, *self.spec.score_hw)
            dense = scores.reshape(-1)[: int(np.prod(shape))].reshape(shape)
            self.cuda.download(dense, self.scores.pointer, self.stream)
            others = {}
            if self.pooled is not None:
                others["pooled"] = self._memory.host(self.spec.pooled)
                self.cuda.download(others["pooled"], self.pooled.pointer, self.stream)
            self.stream.synchronize()
        return {self.spec.scores.name: np.ascontiguousarray(dense[:, :slots]), **others}

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the engine for one frame.

        Raises EngineError at once when another thread holds it, when it is closed, and when the
        GPU was lost before.
        """
        if not self._running.acquire(blocking=False):
            raise EngineError(
                f"{self._name} is labelling a frame on another thread; open one engine per thread"
            )
        try:
            if self._lost:
                raise DeviceLostError("the GPU was lost by an earlier frame; start again")
            if self._engine is None:
                raise EngineError("this engine is closed; open it again with open_engine")
            self.cuda.activate()
            yield
        except BaseException as error:
            self._lost = self._lost or isinstance(error, DeviceLostError)
            self._drain()
            raise
        finally:
            self._running.release()

    def _drain(self) -> None:
        """Wait for what a frame that failed has left on the stream: it reads the host's buffers."""
        if self._lost or self._engine is None:
            return
        try:
            self.stream.synchronize()
        except DeviceLostError:
            self._lost = True
        except EngineError as error:
            _LOG.warning("%s: after a frame that failed: %s", self._name, error)

    def set_text(
        self, text: NDArray[np.float32], valid: NDArray[np.float32], owner: object = None
    ) -> int:
        """Put text float32 [K, D] and valid float32 [K] on the device, padded; return the bucket.

        owner: what `text_of` shows from now on. Inside `exclusive`. Costs one copy of at most 256
        rows; nothing is allocated, run or captured.
        """
        self.text_of = None
        slots = len(valid)
        bucket = bucket_for(slots)
        # A frame under way may not have copied its own yet.
        self.stream.synchronize()
        rows, used = self._memory.host(self.spec.text), self._memory.host(self.spec.valid)
        rows[:slots], rows[slots:bucket] = text, 0.0
        used[:slots], used[slots:bucket] = valid, 0.0
        self.cuda.upload(self.text.pointer, rows[:bucket], self.stream)
        self.cuda.upload(self.valid.pointer, used[:bucket], self.stream)
        self._bucket = bucket
        self.text_of = owner
        return bucket

    def enqueue(self) -> None:
        """Put one run on the stream, from `image` to `scores` and `pooled`. Inside `exclusive`."""
        bucket = self._buckets[self._bucket]
        if bucket.graph is not None:
            bucket.graph.launch(self.stream)
        else:
            self._execute(bucket.context)

    def labeller(self, *, threads: int) -> Labeller:
        """Return the way to label whole frames on the device; on the host, with a warning that says
        why, where there are no CUDA kernels or the GPU's driver does not take them."""
        own = on_device(DeviceLabeller, self, kernels_file())
        if own is None:
            return self.host_labeller(threads=threads)
        self._labeller_facts = own.facts
        return own

    def run_labellers(self, *, threads: int, on_host: bool = False) -> dict[int, RunLabeller]:
        several = super().run_labellers(threads=threads)
        if not several or on_host:
            return several
        own = on_device(DeviceRunLabeller, self, kernels_file())
        return several if own is None else {self.spec.batch: own}

    def facts(self) -> dict[str, Any]:
        """Return what can be said of this engine: versions, memory, how its work is launched, and
        `results_copied` as their receivers held all page-locked memory that they may."""
        return {
            "flavour": self._flavour.name,
            "version": str(self._trt.__version__),
            "device": self.cuda.device.name,
            "compute_capability": self.cuda.device.sm,
            "device_bytes": self._memory.device_bytes,
            "cuda_graphs": dict(self.graphs),
            **self._labeller_facts(),
        }

    def device_memory(self) -> int:
        """Return the bytes in use on this GPU, other programs included."""
        free, total = self.cuda.free_memory()
        return total - free

    def close(self) -> None:
        """Release everything, last allocated first; may be called twice."""
        self._save_cache()
        buckets, self._buckets = self._buckets, {}
        graphs = [bucket.graph for bucket in buckets.values() if bucket.graph is not None]
        resources = self._memory.given_up()
        buckets.clear()
        try:
            self.cuda.activate()
            # Graphs hold addresses of the buffers; contexts went before engine and runtime.
            close_all([*resources, *graphs])
        except DedosError:
            if not self._lost:
                raise
        finally:
            self._cache.release()
            self._engine = None
            self._runtime = None

    # Loading

    def _load(self, engine: bytes) -> None:
        library, refusal = self._library, self._unloadable
        self._runtime = self._must("a runtime", self._trt.Runtime, library.logger)
        self._engine = library.must(refusal, self._runtime.deserialize_cuda_engine, engine)
        library.ask(refusal, check_engine, self._engine, self.spec, self._name)

    def _unloadable(self, why: str) -> EngineError:
        return EngineError(
            f"{self._library.name} cannot load {self._name} on {self.cuda.device.name} (compute "
            f"capability {self.cuda.device.sm}): {why}; delete the file and run again to build it "
            "for this device"
        )

    @property
    def _loaded(self) -> vendor.CudaEngine:
        assert self._engine is not None, "loaded first, and not used once closed"
        return self._engine

    def _allocate(self) -> None:
        spec, cuda = self.spec, self.cuda
        scratch = max(
            self._library.ask(self._unloadable, scratch_bytes, self._loaded, index)
            for index in range(len(SLOT_BUCKETS))
        )
        self.stream = self._memory.own(cuda.stream())
        self.scratch = self._memory.own(
            cuda.allocate(max(1, scratch), "the engine's scratch memory")
        )
        self.image = self._memory.device(spec.image)
        self.text = self._memory.device(spec.text)
        self.valid = self._memory.device(spec.valid)
        self.scores = self._memory.device(spec.scores)
        self.pooled = self._memory.device(spec.pooled) if spec.pooled_width else None
        # Before anything else of this process can take it.
        self._memory.host(spec.text)
        self._memory.host(spec.valid)

    # Buckets

    def _prepare_all(self, on_progress: Progress) -> None:
        """Make every bucket ready, one after the other, since all share one block of scratch memory.

        Beside the frames it would take a second block, as large as the largest bucket's.
        """
        # What lies in fresh memory may be no number, from which a graph may compute an address.
        most = SLOT_BUCKETS[-1]
        self.cuda.fill(self.image.pointer, 0, self.image.size, self.stream)
        rows = np.eye(most, self.spec.text_width, dtype=np.float32)
        rows[self.spec.text_width :, 0] = 1.0
        self.set_text(rows, np.ones(most, np.float32))
        for number, slots in enumerate(SLOT_BUCKETS, start=1):
            on_progress.note(f"making K={slots} ready, {number} of {len(SLOT_BUCKETS)}")
            self._buckets[slots] = self._prepare(slots)

    def _prepare(self, slots: int) -> _Bucket:
        named, config, scratch = f"for K={slots}", self._runtime_config(), self.scratch
        context = self._must(f"a context {named}", new_context, self._trt, self._loaded, config)
        self._ask("scratch memory", context.set_device_memory, scratch.pointer, scratch.size)
        self._must(
            f"the profile {named}",
            context.set_optimization_profile_async,
            SLOT_BUCKETS.index(slots),
            self.stream.handle,
        )
        self.stream.synchronize()
        for tensor in self.spec.inputs:
            shape = tuple(slots if dim == "K" else int(dim) for dim in tensor.shape)
            self._must(f"{tensor.name} {shape}", context.set_input_shape, tensor.name, shape)
        missing = self._ask(f"the shapes {named}", context.infer_shapes)
        if missing:
            raise self._refused(f"the shapes {named}", f"{', '.join(missing)} have none")
        address = context.set_tensor_address
        outputs = (self.scores,) if self.pooled is None else (self.scores, self.pooled)
        buffers = (self.image, self.text, self.valid, *outputs)
        for tensor, buffer in zip((*self.spec.inputs, *self.spec.outputs), buffers, strict=True):
            self._must(f"the address of {tensor.name!r}", address, tensor.name, buffer.pointer)
        bucket = _Bucket(context)
        # The first run compiles and settles what a capture must not contain.
        self._execute(context)
        self.stream.synchronize()
        bucket.graph = self._captured(context, slots)
        self._save_cache()
        return bucket

    def _captured(self, context: vendor.ExecutionContext, slots: int) -> Graph | None:
        """Return the graph of one run, or None with the reason in `graphs`."""
        if not self._ask("a capture", is_capturable, context, self.stream.handle):
            self._no_graph(slots, "the library cannot capture this engine")
            return None
        graph: Graph | None = None
        try:
            graph = self.cuda.capture(self.stream, lambda: self._execute(context))
            graph.launch(self.stream)
            self.stream.synchronize()
        except EngineError as error:
            if graph is not None:
                graph.close()
            if isinstance(error, DeviceLostError):
                raise
            self._no_graph(slots, str(error))
            return None
        self.graphs[slots] = "captured"
        return graph

    def _no_graph(self, slots: int, why: str) -> None:
        self.graphs[slots] = f"launched one by one: {why}"
        text = "%s: no CUDA graph for K=%d, its kernels are launched one by one: %s"
        _LOG.warning(text, self._name, slots, why)

    def _execute(self, context: vendor.ExecutionContext) -> None:
        self._must("a run", context.execute_async_v3, self.stream.handle)

    def _ask(self, what: str, call: Callable[..., _Answer], *arguments: Any) -> _Answer:
        return self._library.ask(partial(self._refused, what), call, *arguments)

    def _must(self, what: str, call: Callable[..., _Answer | None], *arguments: Any) -> _Answer:
        return self._library.must(partial(self._refused, what), call, *arguments)

    def _refused(self, what: str, why: str) -> EngineError:
        return EngineError(f"{self._library.name} refused {what} of {self._name}: {why}")

    def _runtime_config(self) -> vendor.RuntimeConfig | None:
        if not self._flavour.portable:
            return None
        config = self._must("a runtime configuration", self._loaded.create_runtime_config)
        self._cache.attach(config)
        return config

    def _save_cache(self) -> None:
        if not self._lost:
            self._cache.save()
