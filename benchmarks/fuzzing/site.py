"""`dedos-run --serve` as a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

START_S = 90.0
_COMMAND = (sys.executable, "-c", "from dedos_deploy.cli.run import main; raise SystemExit(main())")
_ADDRESS = re.compile(r"watch at http://([\d.]+):(\d+)/")
CAMERA = "gate"


class Site:
    """A server with one camera; log: the file of its stderr."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        """Start it and wait until it answers. Raises RuntimeError when it does not."""
        self.log = folder / "server.txt"
        recordings = folder / "recordings"
        recordings.mkdir(exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *_COMMAND,
                    "--source",
                    f"{CAMERA}=scene:street?frames=100000&size=48x96",
                    "--bundle",
                    str(bundle),
                    "--classes",
                    "red,green",
                    "--serve",
                    "127.0.0.1:0",
                    "--record-to",
                    str(recordings),
                    "--threads",
                    "1",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "DEDOS_CACHE_DIR": str(folder / "cache")},
            )
        self.host, self.port = self._address()

    def _address(self) -> tuple[str, int]:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            found = _ADDRESS.search(self.text())
            if found is not None:
                return found[1], int(found[2])
            time.sleep(0.05)
        raise RuntimeError(f"the server did not start: {self.text()[-1000:]}")

    def wait_for_a_picture(self) -> None:
        """Return once the camera has a frame. Raises RuntimeError when it gets none."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            found = self.get(f"/api/cameras/{CAMERA}/snapshot.jpg", START_S)
            if found is not None and found[0] == 200:
                return
            time.sleep(0.1)
        raise RuntimeError("the server's camera gives no picture")

    def get(self, path: str, timeout_s: float) -> tuple[int, bytes] | None:
        """Return status and body of a plain request, None if there is no answer in time."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def send(self, content: bytes, timeout_s: float) -> bytes:
        """Send bytes and return the beginning of what comes back, nothing if nothing does."""
        received = b""
        try:
            with socket.create_connection((self.host, self.port), timeout_s) as connection:
                connection.sendall(content)
                while len(received) < 1 << 16 and (part := connection.recv(1 << 16)):
                    received += part
        except OSError:
            pass  # refused, cut off, or silent: whether it still lives is asked afterwards
        return received

    def ended(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.poll()

    def text(self, start: int = 0) -> str:
        """Return what it has said, from a byte of the log on."""
        with self.log.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    def memory_mb(self) -> float:
        """Return its resident memory."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def held(self) -> dict[str, int]:
        """Return how many descriptors and threads it has."""
        place = Path(f"/proc/{self._process.pid}")
        return {
            "descriptors": len(os.listdir(place / "fd")),
            "threads": len(os.listdir(place / "task")),
        }

    def close(self) -> None:
        """End it, kindly at first."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
