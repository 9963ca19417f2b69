"""A live server on the loopback address, asked what its description allows, and what it does not."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

from dedos_deploy.errors import DedosError
from fuzzing.described import Described, read_description, status_of
from fuzzing.site import CAMERA, Site
from fuzzing.subject import Limits, Misbehaved, Subject
from fuzzing.tiny import write_bundle

ANSWER_S = 2.0
"""Within which a plain request is answered, whatever came before it."""

SILENCE_S = 0.5
"""After which half a request is given up; whole ones are answered long before."""

GAP_S = 1 / 25
"""Between two cases, so that the server's own limit of requests does not answer for it."""

LOOK_EVERY = 50
MOST_GROWTH_MB = 256.0
MOST_MORE = {"descriptors": 32, "threads": 64}
"""Above what was held at first; the pool of threads that answer requests grows to 40."""

SETTLE_S = 5.0
_ALIVE = "/api/words"
_TRACEBACK = "Traceback (most recent call last)"


class RefusedRequest(DedosError):
    """An answer 4xx, or no answer to what is no request."""


class Unavailable(DedosError):
    """An answer 503: the server says itself that it cannot, for a while."""


class Api(Subject):
    """Requests to `dedos-run --serve`; the server stays, so that what piles up is seen, too."""

    name = "api"
    preload = ("cv2", "onnx")
    limits = Limits(seconds=30.0)

    def write_seeds(self, folder: Path) -> None:
        import cv2
        import numpy as np

        write_bundle(folder / "bundle")
        picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        for suffix in (".jpg", ".png"):
            (folder / f"picture{suffix}").write_bytes(cv2.imencode(suffix, picture)[1].tobytes())

    def open(self, seeds: Path) -> None:
        self._seeds = seeds
        self._wait_s = SILENCE_S
        self._start()
        found = self.site.get("/openapi.json", 10.0)
        if found is None:
            raise RuntimeError(f"the server has no description: {self.site.text()[-1000:]}")
        pictures = [path.read_bytes() for path in sorted(seeds.glob("picture.*"))]
        self._requests = Described(read_description(found[1]), CAMERA, pictures)

    def _start(self) -> None:
        folder = tempfile.mkdtemp(prefix="site-", dir=self._seeds.parent)
        self.site = Site(self._seeds / "bundle", Path(folder))
        self._count = self._said = 0
        self._held, self._first_mb = self.site.held(), self.site.memory_mb()

    def close(self) -> None:
        self.site.close()

    def whole(self, folder: Path) -> Iterator[bytes]:
        self.site.wait_for_a_picture()
        self._wait_s = 20 * SILENCE_S
        yield from self._requests.whole()
        self._wait_s = SILENCE_S

    def make(self, random: Random, folder: Path) -> bytes:
        return self._requests.make(random)

    def keep(self, made: bytes, folder: Path) -> None:
        (folder / "request.bin").write_bytes(made)

    def resident_mb(self) -> float:
        return self.site.memory_mb() if self.site.ended() is None else 0.0

    def attempt(self, made: bytes) -> None:
        if self.site.ended() is not None:
            self._start()
        time.sleep(GAP_S)
        answer = self.site.send(made, self._wait_s)
        self._count += 1
        self._check_life()
        self._check_log()
        if self._count % LOOK_EVERY == 0:
            self._check_growth()
        status = status_of(answer)
        if status == 503:
            raise Unavailable("answered 503")
        if status is not None and status >= 500:
            raise Misbehaved("answer", f"answered {status}: {answer[-200:]!r}")
        if status is None or status >= 400:
            raise RefusedRequest(f"answered {status}: {made[:60]!r}")

    def _check_life(self) -> None:
        code = self.site.ended()
        if code is not None:
            raise Misbehaved("ended", f"the server ended with {code}: {self.site.text()[-300:]}")
        # Twice, since a machine that is busy with other things may be slow once.
        if self.site.get(_ALIVE, ANSWER_S) is None and self.site.get(_ALIVE, ANSWER_S) is None:
            self.site.close()
            raise Misbehaved("silence", f"the server does not answer within {ANSWER_S:g} s")

    def _check_log(self) -> None:
        text = self.site.text(self._said)
        self._said += len(text.encode(errors="replace"))
        if _TRACEBACK in text:
            last = [line for line in text.splitlines() if line and not line[0].isspace()][-1]
            raise Misbehaved("log", f"a traceback in the server's log: {last}")

    def _check_growth(self) -> None:
        grown_mb = self.site.memory_mb() - self._first_mb
        if grown_mb > MOST_GROWTH_MB:
            self._first_mb += grown_mb
            raise Misbehaved("memory", f"the server grew by {grown_mb:.0f} MB")
        deadline_s = time.monotonic() + SETTLE_S
        while (more := self._more()) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        if more:
            self._held = self.site.held()
            raise Misbehaved("held", f"the server holds more and more: {more}")

    def _more(self) -> str:
        held = self.site.held()
        return ", ".join(
            f"{held[name]} {name} after {self._held[name]}"
            for name, most in MOST_MORE.items()
            if held[name] > self._held[name] + most
        )
