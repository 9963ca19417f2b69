"""What an interrupted collection has counted so far, in a file beside the calibration table."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import SinkError
from dedos_deploy.files import write_atomically

log = logging.getLogger(__name__)

SUFFIX = ".partial"

Arrays = Mapping[str, NDArray[Any]]


class PartialState:
    """Arrays counted over the first `done` frames of one collection.

    path: the table's file, to whose name `.KIND.partial` is added; key: everything the arrays
    depend on. A state of another key, or a damaged one, is as good as none.
    """

    def __init__(self, table: Path, *, kind: str, key: str) -> None:
        self.path = table.with_name(f"{table.name}.{kind}{SUFFIX}")
        self._key = key

    def load(self) -> tuple[int, Arrays] | None:
        """Return the number of frames and the arrays, None when there is nothing to go on with."""
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="numpy") as stored:
                metadata = stored.metadata() or {}
                arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            if metadata.get("key") == self._key:
                return int(json.loads(metadata["done"])), arrays
            reason = "belongs to another model, other frames or another version"
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            reason = f"cannot be read ({error})"
        log.warning("%s %s; calibration starts from the first frame", self.path, reason)
        return None

    def save(self, done: int, arrays: Arrays) -> None:
        """Write the state whole or not at all. Raises SinkError."""
        from safetensors.numpy import save

        stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        content = save(stored, {"key": self._key, "done": json.dumps(done)})
        try:
            write_atomically(self.path, content)
        except OSError as error:
            raise SinkError(
                f"the state of the calibration cannot be written to {str(self.path)!r} "
                f"({error.strerror or error}); make room or choose another place for the table"
            ) from error


def remove_partial_states(table: Path) -> None:
    """Remove what interrupted collections for `table` have left."""
    for path in table.parent.glob("*" + SUFFIX):
        if path.name.startswith(table.name + "."):
            path.unlink(missing_ok=True)
