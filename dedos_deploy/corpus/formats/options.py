"""What an export can be asked for, in one record, and the options of the command line that fill it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dedos_deploy.errors import BadInputError
from dedos_deploy.options import Option

Shapes = Literal["masks", "polygons"]
Pictures = Literal["copy", "link", "none"]

EXPORTS = (
    "coco",
    "coco-panoptic",
    "yolo-seg",
    "cvat",
    "labelstudio",
    "voc",
    "cityscapes",
    "webdataset",
)
"""Formats that are written; `exporting.FORMATS` has what writes each."""

IMPORTS = ("cvat", "coco", "labelstudio")
"""Formats that are read; `importing.READERS` has what reads each."""

TWO_SHAPES = ("coco", "cvat", "labelstudio")
"""Formats that hold masks or polygons, as one wishes."""

POLYGONS_ONLY = ("yolo-seg",)

LOCAL_FILES = "/data/local-files/?d=images/"
"""Where Label Studio has files of its document root, and there pictures of an export."""

SHARD_FRAMES = 1000

_WITH_OBJECTS = ("coco", "coco-panoptic", "cvat", "labelstudio", "cityscapes")


@dataclass(frozen=True)
class ExportSettings:
    """How a data set is exported. Raises BadInputError for what no format, or not this one, can do."""

    to: str
    """One of EXPORTS."""

    classes: str | None = None
    """Classes to export, as `dedos-run` takes them, or a file of them; None for all. What is not among
    them is unlabelled."""

    things: str | None = None
    """Of masks: classes whose connected regions are objects of their own; of all others one object is all
    that a picture shows of the class. A polygon is of one region always."""

    min_confidence: float = 0.0
    """In [0, 1]: pixels that the model was less sure of are unlabelled."""

    min_area: int = 1
    """Pixels of the smallest connected region that is labelled."""

    shapes: Shapes | None = None
    """Of the formats that hold both; None for masks, which are exact."""

    tolerance: float | None = None
    """Pixels that a polygon may be off, 0 for every corner; None for half a pixel where there are polygons."""

    pictures: Pictures = "copy"
    """Whether pictures are written beside the labels, linked to, or left out."""

    split: str = "train"
    """What the exported part is called."""

    review: int | None = None
    """Only so many frames, those with the lowest margin, the lowest first; None for all, in order."""

    url: str | None = None
    """What stands before the names of pictures in Label Studio's tasks; None for LOCAL_FILES."""

    shard_frames: int | None = None
    """Frames in each tar of a WebDataset; None for SHARD_FRAMES."""

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_fit()
        if not self.split.isidentifier() or not self.split.isascii():
            raise BadInputError(
                f"--split is {self.split!r}, which becomes part of names; use letters, digits and _"
            )

    @property
    def polygons(self) -> bool:
        """Whether objects are written as polygons."""
        return self.to in POLYGONS_ONLY or self.shapes == "polygons"

    def _check_numbers(self) -> None:
        if not 0.0 <= self.min_confidence <= 1.0:
            raise BadInputError(f"--min-confidence is {self.min_confidence:g}; it lies in [0, 1]")
        for name, value in (
            ("--min-area", self.min_area),
            ("--review", self.review),
            ("--shard-frames", self.shard_frames),
        ):
            if value is not None and value < 1:
                raise BadInputError(f"{name} is {value}; it is at least 1")
        if self.tolerance is not None and not (
            math.isfinite(self.tolerance) and self.tolerance >= 0
        ):
            raise BadInputError(f"--tolerance is {self.tolerance:g}; it is 0 or more pixels")

    def _check_fit(self) -> None:
        if self.to not in EXPORTS:
            raise BadInputError(f"--to is {self.to!r}; it is one of {', '.join(EXPORTS)}")
        self._check_used()
        if self.tolerance is not None and not self.polygons:
            raise BadInputError(
                f"--tolerance is about polygons, and {self.to} gets masks here, which are exact; leave it "
                + ("out, or give --shapes polygons" if self.to in TWO_SHAPES else "out")
            )
        if self.pictures == "link" and self.to == "webdataset":
            raise BadInputError(
                "--pictures link cannot be with webdataset: a tar holds pictures itself; give copy or none"
            )

    def _check_used(self) -> None:
        """Refuse options that would do nothing."""
        for flag, value, formats in (
            ("--shapes", self.shapes, TWO_SHAPES),
            ("--things", self.things, _WITH_OBJECTS),
            ("--url", self.url, ("labelstudio",)),
            ("--shard-frames", self.shard_frames, ("webdataset",)),
        ):
            if value is not None and self.to not in formats:
                raise BadInputError(
                    f"{flag} does nothing with {self.to}, only with {', '.join(formats)}; leave it out"
                )
        if self.things is not None and self.polygons:
            raise BadInputError(
                "--things does nothing with polygons, each of which is of one connected region; leave it out"
            )


FORMAT_OPTIONS = (
    Option(
        "classes",
        "classes to export, as dedos-run takes them, or a file of them (default: all); synonyms join "
        "classes: 'vehicle|car|truck'; the rest is unlabelled",
        metavar="WORDS|FILE",
    ),
    Option(
        "things",
        "masks: classes whose connected regions are objects of their own, as 'car,person' (default: none; "
        "of a class that is none an object is all that a picture shows of it)",
        metavar="WORDS|FILE",
    ),
    Option(
        "min_confidence",
        "leave pixels unlabelled that the model was less sure of, 0 to 1 (default: {default})",
        type=float,
        metavar="C",
        default=0.0,
    ),
    Option(
        "min_area",
        "leave connected regions of fewer pixels unlabelled (default: {default})",
        type=int,
        metavar="PIXELS",
        default=1,
    ),
    Option(
        "shapes",
        "coco, cvat, labelstudio: exact masks, or polygons, which lose holes (default: masks)",
        choices=("masks", "polygons"),
    ),
    Option(
        "tolerance",
        "pixels that a polygon may be off, 0 for every corner (default: 0.5)",
        type=float,
        metavar="PIXELS",
    ),
    Option(
        "pictures",
        "copy pictures beside the labels, link to those that are files, or write none "
        "(default: {default})",
        choices=("copy", "link", "none"),
        default="copy",
    ),
    Option("split", "name of the exported part (default: {default})", default="train"),
    Option(
        "review",
        "only the N frames with the lowest margin, the least certain first",
        type=int,
        metavar="N",
    ),
    Option(
        "url",
        f"labelstudio: what stands before the names of pictures (default: {LOCAL_FILES})",
        metavar="PREFIX",
    ),
    Option(
        "shard_frames",
        f"webdataset: frames in each tar (default: {SHARD_FRAMES})",
        type=int,
        metavar="FRAMES",
    ),
)


@dataclass(frozen=True)
class ImportSettings:
    """How annotations become a label folder."""

    file: Path
    """What the annotation tool exported."""

    source: str
    """One of IMPORTS."""

    classes: str | None = None
    """Classes of the folder, as `dedos-run` takes them, or a file of them: each stands for the labels that
    its words name. None for the labels of the file, by their names."""

    ignore: str | None = None
    """Labels whose pixels stay unlabelled, as a list."""

    images: Path | None = None
    """Folder of the pictures, None for `images` beside the file."""

    split: str = "train"
    """Of the label folder."""


ANNOTATION_OPTIONS = (
    Option(
        "classes",
        "classes of the label folder, as dedos-run takes them, or a file of them (default: the labels of "
        "the file); each stands for the labels that its words name: 'car|Auto'",
        metavar="WORDS|FILE",
    ),
    Option(
        "ignore",
        "labels whose pixels stay unlabelled, as 'unclear,mirror'",
        metavar="LABELS",
    ),
    Option(
        "images",
        "folder of the pictures (default: images beside FILE)",
        type=Path,
        metavar="FOLDER",
    ),
    Option("split", "split of the label folder (default: {default})", default="train"),
)
