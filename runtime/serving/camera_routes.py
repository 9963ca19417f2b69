"""What can be asked of a camera: its words, colours, pictures and recordings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from dedos_deploy.runtime.explaining import Candidate
from dedos_deploy.runtime.serving.answers import (
    KNOWN,
    ClassId,
    Opacity,
    Places,
    VocabularyVersion,
    WordList,
    known_camera,
)
from dedos_deploy.runtime.serving.controls import COLOUR, Controls
from dedos_deploy.runtime.serving.drawing_routes import FrameNumber, known_frame
from dedos_deploy.runtime.serving.explanations import why
from dedos_deploy.runtime.serving.hub import DEFAULT_OPACITY
from dedos_deploy.runtime.serving.recordings import Recorded
from dedos_deploy.runtime.serving.streams import MOST_WATCHERS, StreamResponse
from dedos_deploy.runtime.sources.playback import PlaybackState
from dedos_deploy.vocabulary import WORDS_PER_REQUEST

MOST_ASKING = 16

Place = Annotated[
    float, Query(ge=0.0, lt=1.0, allow_inf_nan=False, description="part of the width or height")
]
Count = Annotated[
    int, Query(ge=1, le=WORDS_PER_REQUEST, description="classes and negatives at most")
]


class Words(BaseModel):
    """The words of a camera, as they are typed."""

    model_config = ConfigDict(extra="forbid")
    classes: WordList = Field(examples=["road,car|automobile"])


class Colour(BaseModel):
    """The colour of a class, as #rrggbb."""

    model_config = ConfigDict(extra="forbid")
    colour: str = Field(pattern=COLOUR, examples=["#ff2626"])


class Recording(BaseModel):
    """A recording that was begun or ended."""

    file: str | None = Field(
        description="on the machine that serves; null when there is none, or one without a frame"
    )
    frames: int = Field(description="in the file")


class Played(BaseModel):
    """What to change of a recording that is watched; what is left out stays."""

    model_config = ConfigDict(extra="forbid")
    paused: bool | None = None
    position: float | None = Field(
        default=None, ge=0.0, le=1.0, allow_inf_nan=False, description="of the frame to go to"
    )
    loop: bool | None = Field(default=None, description="begin again at the end")


class Pixel(BaseModel):
    """What one pixel of the newest frame is."""

    word: str | None = Field(description="null where it stayed unlabelled")
    confidence: float = Field(description="of the best word, in [0, 1], also of one that lost")


class Competitor(BaseModel):
    """What may have become of a pixel."""

    name: str
    word: str = Field(description="which of the class's words scored: its name, or a synonym")
    kind: str = Field(
        description="word, negative (a word of the bundle that leaves pixels unlabelled), background (no "
        "label), or null (what the scores leave to words of the model's own)"
    )
    score: float = Field(description="in [0, 1]; of the background what the best word had to reach")
    threshold: float = Field(description="lowest score with which it decides, 0 for any")
    decided: bool = Field(description="whether the pixel's label came of it")


class Explanation(BaseModel):
    """What competed for one pixel, the highest score first."""

    why: str = Field(description="what decided, in one sentence")
    candidates: list[Competitor]


def camera_routes(controls: Controls, heavy: Places) -> APIRouter:
    """Return the routes under /api/cameras/{name}."""
    router = APIRouter(prefix="/api/cameras/{name}", responses=KNOWN)
    _add_words(router, controls, heavy)
    _add_playback(router, controls)
    _add_recordings(router, controls)
    _add_pictures(router, controls)
    _add_places(router, controls)
    return router


def _add_words(router: APIRouter, controls: Controls, heavy: Places) -> None:
    @router.get("/classes", summary="Words of a camera")
    def classes(name: str) -> dict[str, Any]:
        return controls.classes(known_camera(controls, name))

    @router.put("/classes", summary="Replace a camera's words")
    def set_classes(name: str, body: Words) -> VocabularyVersion:
        known_camera(controls, name)
        with heavy.place():
            return VocabularyVersion(version=controls.set_classes(name, body.classes))

    @router.put(
        "/classes/{class_id}/colour",
        status_code=204,
        response_class=Response,
        response_model=None,
        summary="Give a class another colour",
    )
    def set_colour(name: str, class_id: ClassId, body: Colour) -> None:
        controls.set_colour(known_camera(controls, name), class_id, body.colour)


def _add_playback(router: APIRouter, controls: Controls) -> None:
    @router.put("/playback", summary="Pause, play and move a recording")
    def play(name: str, body: Played) -> PlaybackState:
        playback = controls.playback(known_camera(controls, name))
        playback.change(paused=body.paused, position=body.position, loop=body.loop)
        return playback.state


def _add_recordings(router: APIRouter, controls: Controls) -> None:
    @router.post("/recording", summary="Begin to record a camera")
    def record(name: str) -> Recording:
        return _recording(controls.recordings.begin(known_camera(controls, name)))

    @router.delete("/recording", summary="End its recording")
    def end_recording(name: str) -> Recording:
        return _recording(controls.recordings.end(known_camera(controls, name)))


def _add_pictures(router: APIRouter, controls: Controls) -> None:
    watchers = Places(MOST_WATCHERS, f"{MOST_WATCHERS} pages are watching already; close one")

    @router.get(
        "/snapshot.jpg",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, 503: {"description": "no frame yet"}},
        summary="The newest frame with its labels",
    )
    def snapshot(name: str, opacity: Opacity = DEFAULT_OPACITY) -> Response:
        newest = controls.hub.jpeg(known_camera(controls, name), opacity=opacity)
        if newest is None:
            raise HTTPException(503, f"camera {name!r} has no frame yet; ask again")
        return Response(newest[1], media_type="image/jpeg")

    @router.get("/stream", response_class=Response, include_in_schema=False)
    async def stream(name: str, opacity: Opacity = DEFAULT_OPACITY) -> Response:
        return StreamResponse(controls.hub, watchers, known_camera(controls, name), opacity)


def _add_places(router: APIRouter, controls: Controls) -> None:
    # Places of their own: they wait for a frame, and one that never comes must keep no work waiting.
    asking = Places(MOST_ASKING, f"{MOST_ASKING} explanations are asked for already; ask again")

    @router.get("/at", responses={503: {"description": "no frame yet"}}, summary="Word at a place")
    def pixel(name: str, x: Place, y: Place) -> Pixel:
        found = controls.pixel(known_camera(controls, name), x, y)
        if found is None:
            raise HTTPException(503, f"camera {name!r} has no frame yet; ask again")
        return Pixel(**found)

    @router.get(
        "/top",
        responses={503: {"description": "no frame comes"}},
        summary="Why a place of the next frame is what it is",
    )
    def explain(name: str, x: Place, y: Place, n: Count = 5) -> Explanation:
        known_camera(controls, name)
        with asking.place():
            return _explanation(controls.explanations.top(name, x, y, n))

    @router.get("/frozen/{number}/top", summary="Why a place of a frozen frame is what it is")
    def explain_frozen(
        name: str, number: FrameNumber, x: Place, y: Place, n: Count = 5
    ) -> Explanation:
        return _explanation(known_frame(controls, name, number).top(x, y, n))


def _explanation(found: Sequence[Candidate]) -> Explanation:
    return Explanation(why=why(found), candidates=[Competitor(**vars(one)) for one in found])


def _recording(recorded: Recorded) -> Recording:
    return Recording(file=recorded.file, frames=recorded.frames)
