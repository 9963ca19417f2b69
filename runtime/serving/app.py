"""The HTTP API and the page, as an ASGI application."""

# No `from __future__ import annotations`: FastAPI reads the annotations of nested functions.
import base64
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from dedos_deploy.errors import BadInputError, DedosError, SinkError, require
from dedos_deploy.runtime.serving.guard import MAX_BODY, Access, Guard
from dedos_deploy.runtime.serving.hub import DEFAULT_OPACITY, Hub, decode_picture

MOST_PIXELS = 4096 * 4096
MOST_WORDS_LENGTH = 20_000
MOST_WATCHERS = 16
STREAM_WAIT_S = 5.0
BOUNDARY = "frame"
_PAGE = Path(__file__).with_name("page")


def build_app(hub: Hub, *, words: tuple[str, ...] = ()) -> Any:
    """Return the application without its guard; words: to suggest in the page.

    Raises MissingExtraError without FastAPI.
    """
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, extra="serve", purpose="serving a page")
    import cv2
    from fastapi import Body, FastAPI, HTTPException, Query, Request, Response
    from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
    from prometheus_client import CollectorRegistry, generate_latest
    from pydantic import BaseModel, ConfigDict, Field

    from dedos_deploy import __version__
    from dedos_deploy.runtime.serving.metrics import FleetCollector

    app = FastAPI(
        title="DEDOS Deploy",
        version=__version__,
        description="Cameras, their words, and pictures labelled by any words.",
        # Its documentation page would fetch scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    registry = CollectorRegistry()
    registry.register(FleetCollector(hub))
    watchers = threading.BoundedSemaphore(MOST_WATCHERS)

    class Words(BaseModel):
        model_config = ConfigDict(extra="forbid")
        classes: str = Field(
            min_length=1, max_length=MOST_WORDS_LENGTH, examples=["road,car|automobile"]
        )

    class Colour(BaseModel):
        model_config = ConfigDict(extra="forbid")
        colour: str = Field(pattern="^#[0-9a-fA-F]{6}$", examples=["#ff2626"])

    class Recording(BaseModel):
        file: str | None = Field(description="on the machine that serves; null when there is none")

    class Vocabulary(BaseModel):
        version: int

    class Labelled(BaseModel):
        classes: list[str]
        none_id: int
        coverage: dict[str, float]
        unlabelled: float
        label_map_png: str = Field(description="class ids as a PNG of 8 or 16 bits, in base64")

    known: dict[int | str, dict[str, Any]] = {
        404: {"description": "no such camera"},
        422: {"description": "unusable input"},
    }
    opacities = Query(ge=0.0, le=1.0, description="of the class colours")

    @app.exception_handler(DedosError)
    def refuse(request: Request, error: DedosError) -> JSONResponse:
        status = 422 if isinstance(error, BadInputError) else 500
        if isinstance(error, SinkError):
            status = 507
        return JSONResponse({"detail": str(error)}, status_code=status)

    def camera(name: str) -> str:
        if name not in hub.cameras:
            try:
                hub.view(name)
            except BadInputError as error:
                raise HTTPException(404, str(error)) from error
        return name

    @app.get("/api/state", summary="Numbers and words of all cameras")
    def state() -> dict[str, Any]:
        return hub.state()

    @app.get("/api/words", summary="Words that need no text tower, by their beginning")
    def suggest(prefix: Annotated[str, Query(max_length=100)] = "") -> list[str]:
        start = prefix.strip().lower()
        return [word for word in words if word.lower().startswith(start)][:20]

    @app.get("/api/cameras/{name}/classes", responses=known, summary="Words of a camera")
    def classes(name: str) -> dict[str, Any]:
        return hub.classes(camera(name))

    @app.put("/api/cameras/{name}/classes", responses=known, summary="Replace a camera's words")
    def set_classes(name: str, body: Words) -> Vocabulary:
        return Vocabulary(version=hub.set_classes(camera(name), body.classes))

    @app.put(
        "/api/cameras/{name}/classes/{class_id}/colour", responses=known, status_code=204,
        response_class=Response, summary="Give a class another colour",
    )  # fmt: skip
    def set_colour(name: str, class_id: int, body: Colour) -> None:
        hub.set_colour(camera(name), class_id, body.colour)

    @app.post("/api/cameras/{name}/recording", responses=known, summary="Begin to record a camera")
    def record(name: str) -> Recording:
        return Recording(file=hub.record(camera(name), on=True))

    @app.delete("/api/cameras/{name}/recording", responses=known, summary="End its recording")
    def end_recording(name: str) -> Recording:
        return Recording(file=hub.record(camera(name), on=False))

    @app.get(
        "/api/cameras/{name}/snapshot.jpg", response_class=Response,
        responses={**known, 200: {"content": {"image/jpeg": {}}}, 503: {"description": "no frame yet"}},
        summary="The newest frame with its labels",
    )  # fmt: skip
    def snapshot(name: str, opacity: Annotated[float, opacities] = DEFAULT_OPACITY) -> Response:
        found = hub.jpeg(camera(name), opacity=opacity)
        if found is None:
            raise HTTPException(503, f"camera {name!r} has no frame yet; ask again")
        return Response(found[1], media_type="image/jpeg", headers={"cache-control": "no-store"})

    @app.get(
        "/api/cameras/{name}/stream", response_class=StreamingResponse, include_in_schema=False
    )
    def stream(
        name: str, opacity: Annotated[float, opacities] = DEFAULT_OPACITY
    ) -> StreamingResponse:
        camera(name)
        if not watchers.acquire(blocking=False):
            raise HTTPException(503, f"{MOST_WATCHERS} pages are watching already; close one")
        return StreamingResponse(
            parts(name, opacity), media_type=f"multipart/x-mixed-replace; boundary={BOUNDARY}",
            headers={"cache-control": "no-store"},
        )  # fmt: skip

    def parts(name: str, opacity: float) -> Iterator[bytes]:
        seen = 0
        try:
            while True:
                found = hub.jpeg(name, newer_than=seen, timeout_s=STREAM_WAIT_S, opacity=opacity)
                if found is None:
                    # Something must be sent for a page that is gone to be noticed.
                    yield b"\r\n"
                    continue
                seen, picture = found
                head = f"--{BOUNDARY}\r\ncontent-type: image/jpeg\r\ncontent-length: {len(picture)}\r\n\r\n"
                yield head.encode() + picture + b"\r\n"
        finally:
            watchers.release()

    @app.post("/api/segment", responses={422: known[422]}, summary="Label one JPEG or PNG")
    def segment(
        words: Annotated[str, Query(alias="classes", min_length=1, max_length=MOST_WORDS_LENGTH)],
        picture: Annotated[bytes, Body(media_type="image/*", max_length=MAX_BODY)],
    ) -> Labelled:
        result = hub.segment_image(decode_picture(picture, most_pixels=MOST_PIXELS), words)
        _, png = cv2.imencode(".png", result.label_map)
        return Labelled(
            classes=list(result.classes), none_id=result.none_id, coverage=result.coverage,
            unlabelled=result.unlabelled, label_map_png=base64.b64encode(png.tobytes()).decode(),
        )  # fmt: skip

    @app.get("/metrics", response_class=PlainTextResponse, summary="Numbers for Prometheus")
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False, response_class=Response)
    def page() -> Any:
        return _file("index.html", "text/html; charset=utf-8", Response)

    @app.get("/page.js", include_in_schema=False, response_class=Response)
    def script() -> Any:
        return _file("page.js", "text/javascript; charset=utf-8", Response)

    @app.get("/page.css", include_in_schema=False, response_class=Response)
    def style() -> Any:
        return _file("page.css", "text/css; charset=utf-8", Response)

    return app


def _file(name: str, media_type: str, response: Any) -> Any:
    headers = {
        "content-security-policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; "
        "base-uri 'none'; frame-ancestors 'none'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return response((_PAGE / name).read_bytes(), media_type=media_type, headers=headers)


class Server:
    """uvicorn on a thread of its own; `start` returns once it listens, `close` within a second or two."""

    def __init__(self, hub: Hub, access: Access, *, words: tuple[str, ...] = ()) -> None:
        """Raises MissingExtraError."""
        application = Guard(build_app(hub, words=words), access)
        import uvicorn

        config = uvicorn.Config(
            application, host=access.host, port=access.port, log_level="warning",
            timeout_graceful_shutdown=1, server_header=False, lifespan="off",
        )  # fmt: skip
        self._access = access
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="dedos-serve", daemon=True)
        self._error: BaseException | None = None

    @property
    def url(self) -> str:
        """Address of the page, without the token."""
        host = f"[{self._access.host}]" if ":" in self._access.host else self._access.host
        return f"http://{host}:{self.port}/"

    @property
    def port(self) -> int:
        """The port that is listened on, also when 0 was asked for."""
        for server in self._server.servers:
            for socket in server.sockets:
                return int(socket.getsockname()[1])
        return self._access.port

    def start(self, timeout_s: float = 10.0) -> None:
        """Listen. Raises BadInputError when the address is taken."""
        import time

        self._thread.start()
        deadline = time.monotonic() + timeout_s
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise BadInputError(
                    f"cannot listen on {self._access.host}:{self._access.port}; is the port taken? "
                    "choose another one, as --serve 127.0.0.1:8081"
                )
            time.sleep(0.02)

    def close(self) -> None:
        """Stop; may be called twice."""
        self._server.should_exit = True
        self._thread.join(3.0)

    def _run(self) -> None:
        try:
            self._server.run()
        except SystemExit as error:  # uvicorn's way to say that it cannot listen
            self._error = error

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()
