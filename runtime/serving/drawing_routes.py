"""What can be asked about frozen frames: to see one, to learn a word from what is drawn on it, to keep it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Response
from pydantic import BaseModel, ConfigDict, Field

from dedos_deploy.errors import BadInputError
from dedos_deploy.runtime.serving.answers import (
    KNOWN,
    ClassId,
    Opacity,
    Places,
    VocabularyVersion,
    known_camera,
)
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
MOST_FREEZING = 16
WORDS_TYPE = "application/octet-stream"
MOST_LETTERS = 200

Number = Annotated[int, Field(ge=1, lt=2**53, description="of a frozen frame")]
FrameNumber = Annotated[int, Path(ge=1, lt=2**53)]
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
    anyway: bool = Field(
        default=False, description="add it also if it does not separate what is drawn from the rest"
    )


class Learned(BaseModel):
    """What became of a word that was to be learned."""

    word: str
    margin: float = Field(
        description="in [-1, 1]: the part of what is drawn that is labelled so, less the part of the rest"
    )
    separates: bool = Field(description="whether that is enough")
    added: bool = Field(description="whether the camera has the word now; else nothing has changed")
    examples: int = Field(description="frames that it was learned from")
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
    _add_learning(router, controls, heavy)
    _add_collecting(router, controls, heavy)
    return router


def _add_frozen(router: APIRouter, controls: Controls) -> None:
    drawings = controls.drawings
    # Places of their own, since they wait for a frame.
    freezing = Places(MOST_FREEZING, f"{MOST_FREEZING} frames are being frozen; ask again")

    @router.post(
        "/frozen",
        responses={503: {"description": "no frame yet"}},
        summary="Keep the next frame, to draw on it or to ask about it",
    )
    def freeze(name: str) -> FrozenFrame:
        known_camera(controls, name)
        with freezing.place():
            frozen = drawings.frozen.freeze(name)
        height, width = frozen.size_hw
        kept = drawings.frozen.numbers(name)
        return FrozenFrame(number=frozen.number, width=width, height=height, kept=kept)

    @router.get(
        "/frozen/{number}/picture.jpg",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}},
        summary="A frozen frame with its labels",
    )
    def picture(name: str, number: FrameNumber, opacity: Opacity = DEFAULT_OPACITY) -> Response:
        frozen = known_frame(controls, name, number)
        content = controls.hub.picture(name, frozen.frame, frozen.result, opacity=opacity)
        return Response(content, media_type="image/jpeg")


def known_frame(controls: Controls, name: str, number: int) -> Frozen:
    """Return a frozen frame. Raises HTTPException 404."""
    try:
        return controls.drawings.frozen.get(known_camera(controls, name), number)
    except BadInputError as error:
        raise HTTPException(404, str(error)) from error


def _add_learning(router: APIRouter, controls: Controls, heavy: Places) -> None:
    drawings = controls.drawings

    @router.post("/examples", summary="Learn a word from what is drawn on frozen frames")
    def learn(name: str, body: ToLearn) -> Learned:
        known_camera(controls, name)
        with heavy.place():
            examples = [(one.frozen, _marks(one.marks)) for one in body.examples]
            return Learned(**vars(drawings.learn(name, body.word, examples, anyway=body.anyway)))

    @router.put("/classes/{class_id}/name", summary="Call a learned word otherwise")
    def rename(name: str, class_id: ClassId, body: NewName) -> VocabularyVersion:
        known_camera(controls, name)
        with heavy.place():
            return VocabularyVersion(version=controls.rename(name, class_id, body.name))

    @router.delete(
        "/classes/{class_id}/examples", summary="Let a learned word mean what its text means again"
    )
    def forget(name: str, class_id: ClassId) -> VocabularyVersion:
        known_camera(controls, name)
        with heavy.place():
            return VocabularyVersion(version=drawings.forget(name, class_id))

    @router.get(
        "/words",
        response_class=Response,
        responses={200: {"content": {WORDS_TYPE: {}}}},
        summary="The camera's words with what was learned, as a words file",
    )
    def words_file(name: str) -> Response:
        content = drawings.words_file(known_camera(controls, name))
        return Response(content, media_type=WORDS_TYPE)


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
