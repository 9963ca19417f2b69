"""The program on the other side of a topic, and waiting for it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Peer:
    """A program on the other side; lines: what it has said."""

    def __init__(self, *arguments: object) -> None:
        program = Path(__file__).with_name("dds_peer.py")
        self.process = subprocess.Popen(
            [sys.executable, str(program), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: Queue[str] = Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.strip())

    def said(self, timeout_s: float = 20.0) -> str:
        return self.lines.get(timeout=timeout_s)

    def send(self, **fields: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(fields) + "\n")
        self.process.stdin.flush()

    def send_picture(self, frame_bgr: NDArray[np.uint8], *, stamp_ns: int, **fields: Any) -> None:
        height, width = frame_bgr.shape[:2]
        data = base64.b64encode(frame_bgr.tobytes()).decode()
        known: dict[str, Any] = dict(
            height=height, width=width, encoding="bgr8", is_bigendian=0, step=3 * width
        )
        known |= {"frame_id": "camera_optical", "data": data, **fields}
        self.send(stamp_ns=stamp_ns, **known)

    def messages(self, number: int, timeout_s: float = 20.0) -> list[tuple[str, bytes]]:
        """The next messages, with their topics."""
        found = []
        for _ in range(number):
            topic, _, message = self.said(timeout_s).partition(" ")
            found.append((topic, base64.b64decode(message)))
        return found

    def silent(self, for_s: float) -> bool:
        try:
            self.lines.get(timeout=for_s)
        except Empty:
            return True
        return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()


def until(is_so: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until something has come true."""
    ends_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < ends_s, "it did not come true"
        time.sleep(0.01)


Peers = Callable[..., Peer]
"""Starts the program in the test's domain; its arguments but the domain."""
