"""What all routes share: words from outside, refusals of one sentence, and work that is counted."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from dedos_deploy.errors import BadInputError, DedosError, SinkError, UnfinishedError
from dedos_deploy.runtime.serving.controls import Controls

MOST_WORDS_LENGTH = 20_000
KNOWN: dict[int | str, dict[str, Any]] = {
    400: {"description": "no valid JSON, or a refused header"},
    404: {"description": "no such camera"},
    422: {"description": "unusable input"},
}
STATUS = ((UnfinishedError, 503), (BadInputError, 422), (SinkError, 507))
"""Of errors, the first that fits."""

MOST_IDS = 2**16

WordList = Annotated[str, Field(min_length=1, max_length=MOST_WORDS_LENGTH)]
ClassId = Annotated[int, Path(ge=0, lt=MOST_IDS)]
Opacity = Annotated[
    float, Query(ge=0.0, le=1.0, allow_inf_nan=False, description="of the class colours")
]


class VocabularyVersion(BaseModel):
    """The version that the next frame will carry."""

    version: int


class Places:
    """For so many requests of a kind at once; one more is refused."""

    def __init__(self, most: int, refusal: str) -> None:
        """refusal: what is full, and what to do."""
        self._free = threading.BoundedSemaphore(most)
        self._refusal = refusal

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place inside the block. Raises HTTPException 503 when all are taken."""
        if not self._free.acquire(blocking=False):
            raise HTTPException(503, self._refusal)
        try:
            yield
        finally:
            self._free.release()


def known_camera(controls: Controls, name: str) -> str:
    """Return the name of a camera. Raises HTTPException 404."""
    try:
        controls.view(name)
    except BadInputError as error:
        raise HTTPException(404, str(error)) from error
    return name


def add_refusals(app: FastAPI) -> None:
    """Answer every mistake with one sentence that repeats nothing of what was sent."""

    @app.exception_handler(DedosError)
    def refuse(request: Request, error: DedosError) -> JSONResponse:
        status = next((code for kind, code in STATUS if isinstance(error, kind)), 500)
        return JSONResponse({"detail": str(error)}, status)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return JSONResponse({"detail": "the body is no valid JSON"}, status_code=400)
        place = ".".join(str(part)[:40] for part in first["loc"])
        text = f"{place}: {first['msg']}".encode("ascii", "backslashreplace").decode()
        return JSONResponse({"detail": text[:300]}, status_code=422)
