"""What can be asked besides cameras: the state of all, words, one picture, numbers and the page."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel, Field

from dedos_deploy.runtime.serving.answers import KNOWN, Places, WordList
from dedos_deploy.runtime.serving.bodies import MAX_BODY
from dedos_deploy.runtime.serving.controls import Controls
from dedos_deploy.runtime.serving.metrics import CameraCollector

MOST_SUGGESTED = 20
POLICY = (
    "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_PAGE = Path(__file__).with_name("page")
_PARTS = ("api", "card", "drawing", "explain", "pad", "page", "surface", "words_table")
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    **{f"/{part}.js": (f"{part}.js", "text/javascript; charset=utf-8") for part in _PARTS},
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Labelled(BaseModel):
    """The label map of one picture."""

    classes: list[str]
    none_id: int
    coverage: dict[str, float]
    unlabelled: float
    label_map_png: str = Field(description="class ids as a PNG of 8 or 16 bits, in base64")


def state_routes(controls: Controls, words: tuple[str, ...]) -> APIRouter:
    """Return the routes that only tell; words: to suggest."""
    router = APIRouter()
    registry = CollectorRegistry()
    registry.register(CameraCollector(controls))

    @router.get("/api/state", summary="Numbers and words of all cameras")
    def state() -> dict[str, Any]:
        return controls.state()

    @router.get("/api/words", summary="Words that need no text tower, by their beginning")
    def suggest(prefix: Annotated[str, Query(max_length=100)] = "") -> list[str]:
        start = prefix.strip().lower()
        return [word for word in words if word.lower().startswith(start)][:MOST_SUGGESTED]

    @router.get("/metrics", response_class=PlainTextResponse, summary="Numbers for Prometheus")
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4")

    return router


def picture_routes(controls: Controls, heavy: Places) -> APIRouter:
    """Return the route that labels pictures."""
    router = APIRouter()
    refusals: dict[int | str, dict[str, Any]] = {status: KNOWN[status] for status in (400, 422)}

    @router.post("/api/segment", responses=refusals, summary="Label one JPEG or PNG")
    def segment(
        words: Annotated[WordList, Query(alias="classes")],
        picture: Annotated[bytes, Body(media_type="image/*", max_length=MAX_BODY)],
    ) -> Labelled:
        import cv2

        with heavy.place():
            result = controls.segment_picture(picture, words)
            _, png = cv2.imencode(".png", result.label_map)
        return Labelled(
            classes=list(result.classes),
            none_id=result.none_id,
            coverage=result.coverage,
            unlabelled=result.unlabelled,
            label_map_png=base64.b64encode(png.tobytes()).decode(),
        )

    return router


def page_routes() -> APIRouter:
    """Return the page and what it consists of."""
    router = APIRouter()
    for path, (name, media_type) in _FILES.items():
        router.add_api_route(
            path, _sender(name, media_type), include_in_schema=False, response_class=Response
        )
    return router


def _sender(name: str, media_type: str) -> Any:
    content = (_PAGE / name).read_bytes()

    def send() -> Response:
        headers = {"content-security-policy": POLICY}
        return Response(content, media_type=media_type, headers=headers)

    return send
