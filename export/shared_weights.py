"""Graphs of one model in one folder, with the constants that they have in common stored once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import onnx
from onnx import external_data_helper, numpy_helper

SHARED_FROM = 1024
"""Bytes from which a constant lies outside of its graph."""

_ALIGNMENT = 4096
"""Of what lies there, so that a runtime can map it into memory."""


class SharedWeights:
    """Writes graphs whose constants lie in one file beside them."""

    def __init__(self, data: Path) -> None:
        """data: the file, which is not there yet."""
        self.data = data
        self._places: dict[bytes, int] = {}

    def save(self, model: onnx.ModelProto, path: Path) -> None:
        """Write `model` to `path`, in the folder of `data`; its own constants are gone afterwards."""
        contents = hashlib.sha256()
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.nbytes < SHARED_FROM:
                continue
            content = values.tobytes()
            contents.update(digest := hashlib.sha256(content).digest())
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            external_data_helper.set_external_data(
                tensor, self.data.name, self._place(digest, content), len(content)
            )
            tensor.ClearField("raw_data")
        # Engines are told apart by the hash of the graph's file, which must see other weights.
        onnx.helper.set_model_props(model, {"constants_sha256": contents.hexdigest()})
        onnx.save(model, os.fspath(path))

    def _place(self, digest: bytes, content: bytes) -> int:
        """Return where a constant lies, written now unless it is there."""
        if digest not in self._places:
            with self.data.open("ab") as out:
                out.write(bytes(-out.tell() % _ALIGNMENT))
                self._places[digest] = out.tell()
                out.write(content)
        return self._places[digest]
