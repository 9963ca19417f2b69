"""Engines for the device at hand: from the bundle, from the cache of this user, or built now.

An engine is used only when its key fits this device, its file is whole, and the parity gate has passed
here. What the gate saw is kept beside it, so the gate runs once per engine, device and driver.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dedos_deploy.errors import BadBundleError, BadInputError, EngineError, ParityError
from dedos_deploy.files import sha256_of_file, write_atomically
from dedos_deploy.progress import QUIET, Progress
from dedos_deploy.runtime.gpu.build import BuildOptions, build_engine
from dedos_deploy.runtime.gpu.cuda import Cuda
from dedos_deploy.runtime.gpu.device_check import DeviceCheck, check_on_device
from dedos_deploy.runtime.gpu.engine_key import EngineKey, platform_name
from dedos_deploy.runtime.gpu.flavours import FLAVOURS, Flavour, known_problems, version_of
from dedos_deploy.runtime.gpu.kept_verdict import (
    check_of,
    checking_rows,
    keep_verdict,
    kept_verdict,
)
from dedos_deploy.runtime.gpu.library import label
from dedos_deploy.runtime.gpu.memory import available_bytes, build_memory
from dedos_deploy.runtime.gpu.tensorrt_engine import TensorRtEngine
from dedos_deploy.spec import SLOT_BUCKETS, TYPED_TARGETS
from dedos_deploy.user_cache import CACHE_VARIABLE, cache_root

if TYPE_CHECKING:
    from dedos_deploy.bundle import Bundle, BundleGraph

_LOG = logging.getLogger(__name__)


def default_engine_folder() -> Path:
    """Return the folder of built engines: $DEDOS_CACHE_DIR/engines, or in the user's cache."""
    return cache_root() / "engines"


@dataclass(frozen=True)
class StoredEngine:
    """A serialized engine: its key, where it lies, and its SHA-256."""

    key: EngineKey
    path: Path
    sha256: str
    plan: bytes | None = None
    """The engine itself where `path` could not be written."""


def check_readable(bundle: Bundle, target: str) -> None:
    """Raise BadInputError unless `target`, one of `spec.TYPED_TARGETS`, reads the graph of a bundle."""
    if bundle.manifest.target not in TYPED_TARGETS:
        raise BadInputError(
            f"bundle {bundle.name!r} was exported for {bundle.manifest.target!r}, whose graph "
            f"only ONNX Runtime reads; export it again with --target {target}"
        )


class EngineStore:
    """Finds, builds and checks the engine of one bundle for one GPU."""

    def __init__(
        self,
        bundle: Bundle,
        target: str,
        *,
        graph: BundleGraph | None = None,
        trt: ModuleType | None = None,
        cuda: Cuda | None = None,
        folder: Path | None = None,
        on_progress: Progress = QUIET,
    ) -> None:
        """target: `trt` or `rtx`; graph: one of the bundle's, None for `model.onnx`; trt, cuda: what to use instead of the installed ones; folder: of
        the cache, None for the user's; on_progress: noted what is being done.

        Raises BadInputError for a bundle whose graph TensorRT cannot read, MissingExtraError,
        EngineError without a usable GPU.
        """
        self.flavour: Flavour = FLAVOURS[target]
        check_readable(bundle, target)
        self._bundle = bundle
        self._graph = graph or bundle.graph()
        self._trt = trt or self.flavour.load(f"running on the {target} engine")
        self._cuda = cuda or Cuda.open()
        self._folder = folder or default_engine_folder()
        self._on_progress = on_progress
        self._precision = bundle.manifest.precision.get("image", "fp32")
        self.wanted = EngineKey(
            model_sha256=self._graph.sha256,
            precision=self._precision,
            flavour=self.flavour.name,
            version=str(self._trt.__version__),
            profiles=SLOT_BUCKETS,
            compute_capabilities=(self._cuda.device.sm,),
            platform="any" if self.flavour.portable else platform_name(),
        )

    def open(self) -> TensorRtEngine:
        """Return the engine, checked on this device; builds it when there is none that fits.

        Raises EngineError when it cannot be built or loaded, ParityError when it labels
        differently from ONNX Runtime, BadBundleError when the bundle's own engine is damaged.
        """
        self._warn_of_known_problems()
        stored = self.find() or self.build()
        engine = self._load(stored)
        try:
            self._check(engine, stored)
        except BaseException:
            engine.close()
            raise
        return engine

    def find(self) -> StoredEngine | None:
        """Return an engine whose key fits this device, the bundle's own before the cache's.

        One that does not fit is explained in a log line.
        """
        for source in (self._in_bundle(), self._in_cache()):
            for stored in source:
                why = stored.key.difference(self.wanted, sm=self._cuda.device.sm)
                if why is None:
                    return stored
                _LOG.info("engine %s is not used: %s", stored.path.name, why)
        return None

    def build(self) -> StoredEngine:
        """Build the engine of this device and keep it in the cache, or warn that it cannot be kept.

        An interrupted build leaves nothing. Raises EngineError, also when the memory will not do.
        """
        model = self._graph.path
        memory = build_memory(model, self._available())
        memory.check()
        options = BuildOptions(
            capabilities=self.wanted.compute_capabilities if self.flavour.portable else (),
            workspace=memory.workspace(shared=self._cuda.device.integrated),
            low_memory=memory.low,
            timing_cache=self._timing_cache(),
        )
        if memory.low:
            self._on_progress.note("little memory is free: fewer tactics are tried")
        built = build_engine(
            self._trt,
            self.flavour,
            model,
            self._graph.spec,
            options,
            on_progress=self._on_progress,
        )
        path = self._folder / f"{self.wanted.name}.engine"
        stored = StoredEngine(self.wanted, path, hashlib.sha256(built.engine).hexdigest())
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, built.engine)
            write_atomically(path.with_suffix(".json"), _sidecar(stored, len(built.engine)))
            if built.timing_cache:
                write_atomically(self._timing_file(), built.timing_cache)
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            _LOG.warning(
                "the engine cannot be kept in %r (%s) and is built again at every start; free some "
                "space, or choose another folder with %s",
                str(self._folder),
                error.strerror or error,
                CACHE_VARIABLE,
            )
            return replace(stored, plan=built.engine)
        return stored

    # Finding

    def _in_bundle(self) -> Iterator[StoredEngine]:
        files = self._bundle.manifest.files
        for name in files:
            if not (name.startswith("engines/") and name.endswith(".json")):
                continue
            engine = name.removesuffix(".json") + ".engine"
            key = EngineKey.from_dict(_json(self._bundle.path(name)), name=name)
            if engine not in files:
                raise BadBundleError(
                    f"bundle {self._bundle.name!r} has the key {name!r} without its engine; export "
                    "it again"
                )
            yield StoredEngine(key, self._bundle.path(engine), files[engine])

    def _in_cache(self) -> Iterator[StoredEngine]:
        path = self._folder / f"{self.wanted.name}.json"
        if not os.path.isfile(path):
            return
        engine = path.with_suffix(".engine")
        try:
            values = _json(path)
            stored = StoredEngine(
                EngineKey.from_dict(values["key"], name=path.name), engine, str(values["sha256"])
            )
            whole = engine.is_file() and engine.stat().st_size == int(values["size"])
            whole = whole and sha256_of_file(engine) == stored.sha256
        except (EngineError, OSError, KeyError, TypeError, ValueError) as error:
            _LOG.warning("the cached engine %s is built anew: %s", path.name, error)
            return
        if whole:
            yield stored
        else:
            _LOG.warning("the cached engine %s is damaged and is built anew", engine.name)

    def _load(self, stored: StoredEngine) -> TensorRtEngine:
        self._on_progress.note("loading the engine")
        cache = self._folder / f"{self._device_name(stored)}.rtxcache"
        return TensorRtEngine(
            self._trt,
            self.flavour,
            stored.path.read_bytes() if stored.plan is None else stored.plan,
            self._graph.spec,
            self._cuda,
            name=stored.path.name,
            runtime_cache=cache if self.flavour.portable else None,
            on_progress=self._on_progress,
        )

    # The gate

    def _check(self, engine: TensorRtEngine, stored: StoredEngine) -> None:
        verdict_file = self._folder / f"{self._device_name(stored)}.check.json"
        verdict = check_of(kept_verdict(verdict_file, stored.sha256))
        if verdict is None:
            verdict = self._compare(engine)
            keep_verdict(verdict_file, stored.sha256, verdict.to_dict())
        if verdict.passed:
            return
        raise ParityError(
            f"engine {stored.path.name} is not used: {verdict}; update {label(self.flavour)} or the "
            f"driver, export in a higher precision, or use --engine cpu (delete "
            f"{verdict_file.name} in {str(self._folder)!r} to check again)"
        )

    def _compare(self, engine: TensorRtEngine) -> DeviceCheck:
        from dedos_deploy.runtime.engines.onnx_runtime import OnnxEngine

        self._on_progress.note("comparing the engine with ONNX Runtime")
        rows = checking_rows(self._bundle)
        frames = self._bundle.parity_frames()
        with OnnxEngine(self._graph.path, self._graph.spec) as reference:
            return check_on_device(
                engine, reference.infer, rows, precision=self._precision, frames=frames
            )

    def _warn_of_known_problems(self) -> None:
        rows = known_problems(
            self.flavour,
            version_of(self._trt),
            precision=self._precision,
            batch=self._graph.spec.batch,
            integrated=self._cuda.device.integrated,
            capability=self._cuda.device.sm,
        )
        for row in rows:
            _LOG.warning(
                "%s %s: %s; %s",
                label(self.flavour),
                self._trt.__version__,
                row.what,
                row.workaround,
            )

    # Names and amounts

    def _device_name(self, stored: StoredEngine) -> str:
        """Name of files that belong to an engine on this very GPU and driver."""
        device = self._cuda.device
        gpu = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
        return f"{replace(stored.key, compute_capabilities=(device.sm,)).name}-{gpu}-cuda{device.driver}"

    def _timing_file(self) -> Path:
        sm = self._cuda.device.sm.replace(".", "")
        return self._folder / f"timing-{self.wanted.version}-sm{sm}-{self.wanted.platform}.cache"

    def _timing_cache(self) -> bytes:
        try:
            return self._timing_file().read_bytes()
        except OSError:
            return b""

    def _available(self) -> int | None:
        """Memory that a build can have: on Jetson both processors share it."""
        main = available_bytes()
        free = self._cuda.free_memory()[0]
        if self._cuda.device.integrated or main is None:
            return main if main is not None else free
        return min(main, free)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EngineError(
            f"{path.name} is damaged ({error}); delete it and its engine, and run again"
        ) from error


def _sidecar(stored: StoredEngine, size: int) -> bytes:
    values = {"key": stored.key.to_dict(), "size": size, "sha256": stored.sha256}
    return (json.dumps(values, indent=2) + "\n").encode()
