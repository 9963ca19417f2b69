"""The HTTP API and the page, as an ASGI application, and the server that runs it."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

from dedos_deploy.closing import Closing
from dedos_deploy.errors import BadInputError, require
from dedos_deploy.runtime.serving.controls import Controls
from dedos_deploy.runtime.serving.guard import Access, Guard
from dedos_deploy.runtime.serving.listener import Listener, listen_on
from dedos_deploy.runtime.serving.repeats import SPAN_S, Repeats

ACCEPTED_AT_ONCE = 16
"""Connections between two rounds of the loop, so that those which are there are heard first."""
MOST_HEAVY = 4
"""Requests at once that encode words or label pictures, so that those who only look always find a
thread."""
_BUSY = "others are changing words or labelling pictures; ask again in a second"
START_S = 10.0
SERVER_STOP_S = 3.0

log = logging.getLogger(__package__)


def build_app(controls: Controls, *, words: tuple[str, ...] = ()) -> Any:
    """Return the application without its guard; words: to suggest in the page.

    Raises MissingExtraError without FastAPI.
    """
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, extra="serve", purpose="serving a page")
    from fastapi import FastAPI

    from dedos_deploy.runtime.serving.answers import Places, add_refusals
    from dedos_deploy.runtime.serving.camera_routes import camera_routes
    from dedos_deploy.runtime.serving.drawing_routes import drawing_routes
    from dedos_deploy.runtime.serving.routes import page_routes, picture_routes, state_routes
    from dedos_deploy.version import __version__

    app = FastAPI(
        title="DEDOS Deploy",
        version=__version__,
        description="Cameras, their words, and pictures labelled by any words.",
        # Its documentation page would fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    add_refusals(app)
    heavy = Places(MOST_HEAVY, _BUSY)
    for router in (
        state_routes(controls, words),
        camera_routes(controls, heavy),
        drawing_routes(controls, heavy),
        picture_routes(controls, heavy),
        page_routes(),
    ):
        app.include_router(router)
    return app


class Server(Closing):
    """uvicorn on a thread of its own; `start` returns once it listens, `close` within a second or two."""

    def __init__(self, controls: Controls, access: Access, *, words: tuple[str, ...] = ()) -> None:
        """Raises MissingExtraError."""
        application = Guard(build_app(controls, words=words), access)
        import uvicorn

        from dedos_deploy.runtime.serving.connections import Connections

        protocol: Any = Connections().protocol
        config = uvicorn.Config(
            application,
            http=protocol,
            ws="none",
            lifespan="off",
            proxy_headers=False,
            backlog=ACCEPTED_AT_ONCE,
            timeout_graceful_shutdown=1,
            server_header=False,
            log_config=None,
            log_level="warning",
            access_log=False,
            callback_notify=self._say_repeats,
            timeout_notify=int(SPAN_S),
        )
        self._access = access
        self._server = uvicorn.Server(config)
        self._listeners: list[Listener] = []
        self._port = access.port
        self._thread = threading.Thread(target=self._run, name="dedos-serve", daemon=True)
        self._repeats = Repeats()

    @property
    def url(self) -> str:
        """Address of the page, without the token."""
        host = f"[{self._access.host}]" if ":" in self._access.host else self._access.host
        return f"http://{host}:{self.port}/"

    @property
    def port(self) -> int:
        """The port that is listened on, also when 0 was asked for."""
        return self._port

    def start(self, timeout_s: float = START_S) -> None:
        """Listen. Raises BadInputError when the address is taken."""
        self._listeners = listen_on(self._access.host, self._access.port)
        self._port = self._listeners[0].getsockname()[1]
        self._thread.start()
        deadline = time.monotonic() + timeout_s
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.close()
                raise BadInputError(
                    f"the server at {self.url} did not start within {timeout_s:g} s; try again"
                )
            time.sleep(0.02)

    def close(self) -> None:
        """Stop; may be called twice."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join(SERVER_STOP_S)
        for listener in self._listeners:
            listener.close()

    def _run(self) -> None:
        theirs = logging.getLogger("uvicorn.error")
        log.addFilter(self._repeats)
        theirs.addFilter(self._take_over)
        try:
            asyncio.run(self._serve())
        finally:
            self._repeats.flush()
            theirs.removeFilter(self._take_over)
            log.removeFilter(self._repeats)

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_exception_handler(_log_error)
        await self._server.serve(sockets=list(self._listeners))

    def _take_over(self, record: logging.LogRecord) -> bool:
        """Write uvicorn's records as our own, which are formatted and counted. That requests are cut
        off by a stop is no news."""
        error = record.exc_info[1] if record.exc_info else None
        is_cut = isinstance(error, asyncio.CancelledError) or str(record.msg).startswith("Cancel ")
        if not (self._server.should_exit and is_cut):
            log.handle(record)
        return False

    async def _say_repeats(self) -> None:
        self._repeats.flush()

    def __enter__(self) -> Server:
        self.start()
        return self


def _log_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Write what asyncio has nobody to tell; the state of a socket is no news."""
    error = context.get("exception")
    if not isinstance(error, OSError):
        log.error("%s", context.get("message"), exc_info=error)
