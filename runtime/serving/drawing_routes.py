"""What can be asked about frozen frames: to see one, to learn a word from what is drawn on it, to keep it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.serving.answers import KNOWN, Opacity, Places, known_camera
from dedos_deploy.runtime.serving.controls import Controls
from dedos_deploy.runtime.serving.frozen import Frozen
from dedos_deploy.runtime.serving.hub import DEFAULT_OPACITY
from dedos_deploy.runtime.serving.marks import (
    MOST_MARKS,
    MOST_POINTS,
    MOST_RADIUS,
    Box,
    Marks,
    Stroke,
)

MOST_EXAMPLES = 5
MOST_REGIONS = 64
MOST_LETTERS = 200

Number = Annotated[int, Field(ge=1, lt=2**53, description="of a frozen frame")]
Pixel = Annotated[int, Field(ge=-(2**16), le=2**16, description="x or y in pixels of the frame")]
Word = Annotated[str, Field(min_length=1, max_length=MOST_LETTERS, examples=["my pallet"])]
"""One word as it is, without synonyms, threshold or colour."""


class StrokeMark(BaseModel):
    """A line of a round brush, or of the eraser, which takes away what was drawn before."""

    model_config = ConfigDict(extra="forbid")
    tool: Literal["brush", "eraser"]
    radius: int = Field(ge=0, le=MOST_RADIUS, description="in pixels of the frame")
    points: list[tuple[Pixel, Pixel]] = Field(min_length=1, max_length=MOST_POINTS)

    def mark(self) -> Stroke:
        return Stroke(tuple(self.points), self.radius, self.tool == "eraser")


class BoxMark(BaseModel):
    """A filled box."""

    model_config = ConfigDict(extra="forbid")
    tool: Literal["box"]
    box: tuple[Pixel, Pixel, Pixel, Pixel] = Field(description="x0, y0, x1, y1, half-open")

    def mark(self) -> Box:
        return Box(self.box)


Drawn = Annotated[
    list[Annotated[StrokeMark | BoxMark, Field(discriminator="tool")]],
    Field(min_length=1, max_length=MOST_MARKS, description="in the order they were drawn in"),
]


class FrozenFrame(BaseModel):
    """A frame that stays, until six newer ones of its camera are frozen."""

    number: int
    width: int
    height: int
    kept: list[int] = Field(description="numbers of all of the camera, with this one")


class Example(BaseModel):
    """What a word is on one frozen frame."""

    model_config = ConfigDict(extra="forbid")
    frozen: Number
    marks: Drawn


class ToLearn(BaseModel):
    """A word, and where it is on one to five frozen frames."""

    model_config = ConfigDict(extra="forbid")
    word: Word
    examples: list[Example] = Field(min_length=1, max_length=MOST_EXAMPLES)


class Learned(BaseModel):
    """What became of it: the camera has the word from its next frame on."""

    word: str
    margin: float = Field(
        description="how much nearer the drawn pixels are to the word than the others"
    )
    separates: bool = Field(description="whether that is enough to tell them apart")
    examples: int
    version: int = Field(description="of the words that the next frame will carry")


class Region(BaseModel):
    """Pixels of a frozen frame that are a word."""

    model_config = ConfigDict(extra="forbid")
    word: Word
    marks: Drawn


class ToCollect(BaseModel):
    """A frozen frame with what is right on it."""

    model_config = ConfigDict(extra="forbid")
    frozen: Number
    regions: list[Region] = Field(
        max_length=MOST_REGIONS, description="where two overlap, the later one counts"
    )
    rest: bool = Field(
        default=False,
        description="take the labels elsewhere as they are shown, too; otherwise those pixels are "
        "unlabelled",
    )


class Kept(BaseModel):
    """A frame in the label folder."""

    picture: str = Field(description="path on the machine that serves")
    labels: str
    frames: int = Field(description="that were collected since the program began")


class NewName(BaseModel):
    """Another name of a learned word."""

    model_config = ConfigDict(extra="forbid")
    name: Word


def drawing_routes(controls: Controls, heavy: Places) -> APIRouter:
    """Return the routes under /api/cameras/{name} for frozen frames."""
    router = APIRouter(prefix="/api/cameras/{name}", responses=KNOWN)
    _add_frozen(router, controls)
    _add_collecting(router, controls, heavy)
    return router


def _add_frozen(router: APIRouter, controls: Controls) -> None:
    drawings = controls.drawings

    @router.post(
        "/frozen",
        responses={503: {"description": "no frame yet"}},
        summary="Keep the newest frame, to draw on it",
    )
    def freeze(name: str) -> FrozenFrame:
        frozen = drawings.frozen.freeze(known_camera(controls, name))
        height, width = frozen.size_hw
        kept = drawings.frozen.numbers(name)
        return FrozenFrame(number=frozen.number, width=width, height=height, kept=kept)

    @router.get(
        "/frozen/{number}/picture.jpg",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}},
        summary="A frozen frame with its labels",
    )
    def picture(
        name: str, number: Annotated[int, Path(ge=1, lt=2**53)], opacity: Opacity = DEFAULT_OPACITY
    ) -> Response:
        frozen = _known_frame(controls, name, number)
        content = controls.hub.picture(name, frozen.frame, frozen.result, opacity=opacity)
        return Response(content, media_type="image/jpeg")


def _known_frame(controls: Controls, name: str, number: int) -> Frozen:
    try:
        return controls.drawings.frozen.get(known_camera(controls, name), number)
    except BadInputError as error:
        raise HTTPException(404, str(error)) from error


def _add_collecting(router: APIRouter, controls: Controls, heavy: Places) -> None:
    @router.post("/collected", summary="Put a frozen frame and its labels into the label folder")
    def collect(name: str, body: ToCollect) -> Kept:
        known_camera(controls, name)
        with heavy.place():
            regions = [(one.word, _marks(one.marks)) for one in body.regions]
            kept = controls.drawings.collect(name, body.frozen, regions, rest=body.rest)
        return Kept(**vars(kept))


def _marks(drawn: list[Any]) -> Marks:
    return [one.mark() for one in drawn]
