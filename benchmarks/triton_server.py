"""A Triton server that is started, killed and asked; for the environment that `.ci/triton FOLDER` makes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http

PROGRAMS = Path(sys.executable).parent
PROTOCOLS = {"http": over_http, "grpc": over_grpc}
STUB = "triton_python_backend_stub"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass
class Server:
    """One server on ports of its own, which it keeps when it is started again."""

    repository: Path
    log: Path
    ports: list[int] = field(default_factory=lambda: free_ports(2))
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        http, grpc = self.ports
        arguments = [f"--model-repository={self.repository}", "--allow-metrics=false"]
        arguments += ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1"]
        arguments += [f"--http-port={http}", f"--grpc-port={grpc}"]
        # Models are loaded when they are asked for, all that are there at the start.
        arguments += ["--model-control-mode=explicit", "--load-model=*"]
        # The configuration is whole, and asking each model for more costs a start of Python.
        arguments += ["--disable-auto-complete-config"]
        # After a load that failed Triton waits at its end for a model that is not there.
        arguments += ["--exit-timeout-secs=2"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAMS / "tritonserver", *arguments], stdout=log, stderr=log
            )
        deadline_s = time.monotonic() + 60.0
        while not self.is_ready():
            alive = self.process.poll() is None and time.monotonic() < deadline_s
            assert alive, self.log.read_text()[-3000:]
            time.sleep(0.1)

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError), self.client("http") as client:
            return bool(client.is_server_ready())
        return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        stubs = self.stubs()
        self.process.send_signal(number)
        self.process.wait(30)
        deadline_s = time.monotonic() + 20.0
        while any(map(is_alive, stubs)):
            assert time.monotonic() < deadline_s, "instances outlive their server"
            time.sleep(0.1)

    def stubs(self) -> list[int]:
        """Process numbers of the instances of models."""
        assert self.process is not None
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        found = [int(text) for task in tasks for text in task.read_text().split()]
        return [pid for pid in found if STUB in Path(f"/proc/{pid}/cmdline").read_text()]

    def client(self, protocol: str) -> Any:
        port = self.ports[list(PROTOCOLS).index(protocol)]
        return PROTOCOLS[protocol].InferenceServerClient(f"127.0.0.1:{port}")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"


def exported(repository: Path, *options: str) -> Path:
    """Write the embedded bundle into a model repository, and return that."""
    command = [PROGRAMS / "dedos-export", "--bundle", "demo", "--triton", repository, *options]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
    return repository


@contextlib.contextmanager
def serving(repository: Path) -> Iterator[Server]:
    server = Server(repository, repository / "server.log")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def ask(
    client: Any,
    image: np.ndarray[Any, Any] | None = None,
    picture: bytes | None = None,
    classes: bytes | str | None = None,
    outputs: tuple[str, ...] = (),
    **parameters: object,
) -> dict[str, Any]:
    """Return what the model "demo" answers, by name."""
    triton = PROTOCOLS["grpc" if "grpc" in type(client).__module__ else "http"]
    texts = {
        "picture": picture,
        "classes": classes.encode() if isinstance(classes, str) else classes,
    }
    given = {name: np.array([text], np.object_) for name, text in texts.items() if text is not None}
    if image is not None:
        given["image"] = image
    inputs = [_input(triton, name, values) for name, values in given.items()]
    wanted = [triton.InferRequestedOutput(name) for name in outputs]
    result = client.infer("demo", inputs, outputs=wanted or None, parameters=parameters or None)
    response = result.get_response()
    found = response["outputs"] if isinstance(response, dict) else response.outputs
    names = [one["name"] if isinstance(one, dict) else one.name for one in found]
    return {name: result.as_numpy(name) for name in names}


def _input(triton: ModuleType, name: str, values: np.ndarray[Any, Any]) -> Any:
    kinds = {"uint8": "UINT8", "float32": "FP32", "object": "BYTES"}
    made = triton.InferInput(name, list(values.shape), kinds[values.dtype.name])
    return made.set_data_from_numpy(values)
