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
LONGEST_PAUSE_S = 5.0
"""After so long without a picture the last one is sent again, or an empty line where there is none, for
proxies that end what is silent."""
_BOUNDARY_LINE = f"--{BOUNDARY}\r\n".encode()


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
        seen, asked = 0, 0
        while not gone.done():
            # Cleared before looking, so that what comes while one is painted is not missed.
            arrived.clear()
            newest = await run_in_threadpool(
                self._hub.jpeg, self._name, newer_than=asked, opacity=self._opacity
            )
            if newest is not None:
                body = _part(newest[1]) if seen else _BOUNDARY_LINE + _part(newest[1])
                seen = asked = newest[0]
            elif await _first_of(arrived, gone):
                continue
            elif seen:
                asked = 0
                continue
            else:
                body = b"\r\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first_of(arrived: asyncio.Event, gone: asyncio.Future[Any]) -> bool:
    """Wait for a picture or the end; return False when neither came for long."""
    waiting: asyncio.Future[Any] = asyncio.ensure_future(arrived.wait())
    try:
        done, _ = await asyncio.wait(
            [waiting, gone], timeout=LONGEST_PAUSE_S, return_when=asyncio.FIRST_COMPLETED
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
    """Return a picture and the boundary after it, without which Chromium does not show it yet."""
    head = f"content-type: image/jpeg\r\ncontent-length: {len(picture)}\r\n\r\n"
    return head.encode() + picture + b"\r\n" + _BOUNDARY_LINE
