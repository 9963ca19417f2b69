"""A client of Triton: label a picture by words, over HTTP or gRPC.

dedos-export --bundle demo --triton models && tritonserver --model-repository=models
python examples/triton_client.py http://127.0.0.1:8000 demo street.jpg "road,car|truck" labels.png
python examples/triton_client.py grpc://127.0.0.1:8001 demo street.jpg "road,car|truck" labels.png
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def labelled(server: str, model: str, picture: bytes, words: str) -> Any:
    """Return what `tritonclient` calls the result; its two halves are used alike."""
    protocol, _, address = server.partition("://")
    triton = import_module(f"tritonclient.{protocol}")
    inputs = []
    for name, content in {"picture": picture, "classes": words.encode()}.items():
        inputs.append(triton.InferInput(name, [1], "BYTES"))
        inputs[-1].set_data_from_numpy(np.array([content], np.object_))
    with triton.InferenceServerClient(address) as client:
        return client.infer(model, inputs, parameters={"encoding": "png"})


def main(server: str, model: str, picture: str, words: str, labels: str) -> None:
    result = labelled(server, model, Path(picture).read_bytes(), words)
    Path(labels).write_bytes(result.as_numpy("label_map_png")[0])
    columns = (result.as_numpy(output) for output in ("class_names", "class_ids"))
    for name, number in zip(*columns, strict=True):
        print(f"{number:5} {name.decode()}")
    print(f"{result.as_numpy('none_id')[0]:5} unlabelled")


if __name__ == "__main__":
    main(*sys.argv[1:])
