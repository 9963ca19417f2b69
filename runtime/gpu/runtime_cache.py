"""What TensorRT for RTX compiled on this device, kept in a file for the next start."""

from __future__ import annotations

import logging
from pathlib import Path

from dedos_deploy.borders import first_line, foreign
from dedos_deploy.errors import EngineError
from dedos_deploy.files import write_atomically
from dedos_deploy.runtime.gpu import vendor

_LOG = logging.getLogger(__name__)


class KeptRuntimeCache:
    """One runtime cache for all contexts of an engine, read from `path` when it is first needed.

    A file that cannot be read or written costs compiling again and a warning, nothing else.
    """

    def __init__(self, path: Path | None) -> None:
        """path: None keeps nothing."""
        self._path = path
        self._cache: vendor.RuntimeCache | None = None

    def attach(self, config: vendor.RuntimeConfig) -> None:
        """Let the contexts of `config` compile into the cache."""
        try:
            with foreign(_useless, reason=first_line):
                self._cache = self._cache or self._new(config)
                if not config.set_runtime_cache(self._cache):
                    raise _useless("it was refused")
        except EngineError as error:
            _LOG.warning("%s", error)

    def save(self) -> None:
        """Write the file where it says something else."""
        if self._cache is None or self._path is None:
            return
        try:
            with foreign(_useless, reason=first_line):
                content = bytes(self._cache.serialize())
            if content and not _same(self._path, content):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self._path, content)
        except (OSError, EngineError) as error:
            _LOG.warning(
                "the runtime cache cannot be kept, the next start compiles again: %s", error
            )

    def release(self) -> None:
        """Let go of the cache, which must not outlive its engine."""
        self._cache = None

    def _new(self, config: vendor.RuntimeConfig) -> vendor.RuntimeCache:
        cache = config.create_runtime_cache()
        if cache is None:
            raise _useless("it gave none")
        self._read(cache)
        return cache

    def _read(self, cache: vendor.RuntimeCache) -> None:
        if self._path is None:
            return
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            _LOG.warning("the runtime cache cannot be read and is made anew: %s", error)
            return
        if not cache.deserialize(content):
            _LOG.warning("the runtime cache %s is of no use here and is made anew", self._path)


def _useless(why: str) -> EngineError:
    return EngineError(f"TensorRT for RTX has no use for its runtime cache ({why})")


def _same(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
