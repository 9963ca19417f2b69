"""A camera's pictures one after the other, for as long as somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dedos_deploy.runtime.serving.answers import Places
from dedos_deploy.runtime.serving.guard import CONNECTION
from dedos_deploy.runtime.serving.hub import Hub

MOST_WATCHERS = 16
BOUNDARY = "frame"
AGAIN_S = 0.2
"""A picture that no other one follows for so long is sent once more: Chromium shows none before it has the
beginning of the next."""
LONGEST_PAUSE_S = 5.0
"""From then on it is sent again after so long, or an empty line where there is none, for proxies that end
what is silent."""


class StreamResponse(Response):
    """MJPEG. The place is taken and given back here, where the answer begins and ends, however it
    ends: a response that nobody waits for any more is never begun, and takes none."""

    def __init__(self, hub: Hub, watchers: Places, name: str, opacity: float) -> None:
        super().__init__(media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        # An end that is not known has no length.
        del self.headers["content-length"]
        self._hub = hub
        self._watchers = watchers
        self._name = name
        self._opacity = opacity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._watchers.place():
            if CONNECTION in scope:
                scope[CONNECTION].is_stream = True
            await self._watch(receive, send)

    async def _watch(self, receive: Receive, send: Send) -> None:
        gone: asyncio.Future[Any] = asyncio.ensure_future(_until_gone(receive))
        try:
            with _arrivals(self._hub, self._name) as arrived:
                start = {"status": self.status_code, "headers": self.raw_headers}
                await send({"type": "http.response.start", **start})
                await self._send_pictures(arrived, gone, send)
        finally:
            gone.cancel()

    async def _send_pictures(
        self, arrived: asyncio.Event, gone: asyncio.Future[Any], send: Send
    ) -> None:
        seen, pause_s = 0, LONGEST_PAUSE_S
        while not gone.done():
            # Cleared before looking, so that what comes while one is painted is not missed.
            arrived.clear()
            newest = await self._picture(newer_than=seen)
            if newest is not None:
                pause_s = AGAIN_S
            elif await _first_of(arrived, gone, pause_s):
                continue
            else:
                newest, pause_s = await self._picture(newer_than=0), LONGEST_PAUSE_S
            if newest is None:
                body = b"\r\n"
            else:
                seen, picture = newest
                body = _part(picture)
            await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _picture(self, *, newer_than: int) -> tuple[int, bytes] | None:
        return await run_in_threadpool(
            self._hub.jpeg, self._name, newer_than=newer_than, opacity=self._opacity
        )


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first_of(arrived: asyncio.Event, gone: asyncio.Future[Any], pause_s: float) -> bool:
    """Wait for a picture or the end; return False when neither came for so long."""
    waiting: asyncio.Future[Any] = asyncio.ensure_future(arrived.wait())
    try:
        done, _ = await asyncio.wait(
            [waiting, gone], timeout=pause_s, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        waiting.cancel()
    return bool(done)


@contextlib.contextmanager
def _arrivals(hub: Hub, name: str) -> Iterator[asyncio.Event]:
    """Yield an event that is set whenever a camera has a new result."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        # A loop that has ended has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(arrived.set)

    with hub.telling(name, tell):
        yield arrived


def _part(picture: bytes) -> bytes:
    head = f"--{BOUNDARY}\r\ncontent-type: image/jpeg\r\ncontent-length: {len(picture)}\r\n\r\n"
    return head.encode() + picture + b"\r\n"
