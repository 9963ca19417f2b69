"""The result of labelling one frame."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dedos_deploy.errors import BadInputError, listed, nearest, shown
from dedos_deploy.runtime.explaining import Candidate, Evidence
from dedos_deploy.runtime.ground import (
    FREE,
    OCCUPIED,
    UNKNOWN,
    GroundCamera,
    GroundGrid,
    OccupancyGrid,
    obstacle_rows,
    occupancy,
)
from dedos_deploy.runtime.label_maps import majority, mask_of, painted
from dedos_deploy.runtime.regions import Polygon, Region, polygons_of, regions_of
from dedos_deploy.runtime.sinks.palette import Colour, colours_of

LabelMap = NDArray[np.uint8] | NDArray[np.uint16]

Words = str | Sequence[str]
"""Names of classes: `floor|road`, or a sequence of them."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The label map of one frame and how it came about.

    The arrays belong to the receiver and are never written again.
    """

    label_map: LabelMap
    """uint8 [H, W] class ids, `none_id` where nothing was named; uint16 while a vocabulary has more
    than 254 classes."""

    confidence: NDArray[np.uint8]
    """uint8 [H, W], 255 times the winning score, also where the pixel stayed unlabelled. Of a calibrated
    bundle 255 times what that score is worth: the part of the pixels with it whose class is right, by
    the curve of the pixel's class, or of all classes where it has none. Thresholds are compared with
    scores, never with this, and `top` gives scores, too."""

    classes: tuple[str, ...]
    """Name of every class id of this result (a session of more than 254 names gives ids again, so
    another result may call an id otherwise)."""

    class_ids: tuple[int, ...]
    """Ids that this frame was asked for, in the order of the vocabulary."""

    counts: NDArray[np.int64]
    """int64 [len(classes)] pixels per class id."""

    none_id: int
    """Id of unlabelled pixels."""

    vocabulary_version: int
    """1 for the first class list, one more per change."""

    timestamp_s: float
    """`time.monotonic()` of the frame's capture."""

    latency_ms: Mapping[str, float]
    """Milliseconds of `pre` (resize), `engine` and `post` (label map)."""

    colours_bgr: tuple[Colour, ...] = ()
    """Colour of every class id, each part in [0, 255]; left out, those of the words themselves."""

    evidence: Evidence | None = field(default=None, repr=False)
    """The scores that it was labelled by, kept on request; see `top`."""

    trust: float | None = None
    """How much the frame looks like those that the model learned, in [0, 1]: 1 for one as near as nine of
    ten of them, `spec.TRUST_LINE` where one of twenty is farther, 0 beyond all. Of a frame that is looked at
    through tiles it is that of the frame as a whole. None where the bundle has no statistics of them, and
    for a `Tiling` that never shows the whole."""

    windows: int = 1
    """How many pictures of it the network was shown: 1, or with tiles its windows and the whole."""

    calibrated: bool = False
    """Whether `confidence` is what scores are worth, rather than the scores."""

    def __post_init__(self) -> None:
        if not self.colours_bgr:
            object.__setattr__(self, "colours_bgr", tuple(colours_of(self.classes)))

    @property
    def total_ms(self) -> float:
        """Milliseconds from frame to label map."""
        return sum(self.latency_ms.values())

    @property
    def coverage(self) -> dict[str, float]:
        """Fraction of the frame's pixels per class of the vocabulary, in its order."""
        return {
            self.classes[class_id]: int(self.counts[class_id]) / self.label_map.size
            for class_id in self.class_ids
        }

    @property
    def unlabelled(self) -> float:
        """Fraction of the frame's pixels that have no class."""
        return 1.0 - int(self.counts.sum()) / self.label_map.size

    def top(self, y: int, x: int, n: int = 5) -> tuple[Candidate, ...]:
        """Return what competed for pixel (y, x) of the frame, the highest score first.

        n: classes and negatives at most. Beside them stand the best class, where only negatives are better;
        the background with the score that the best word had to reach, where it has a threshold; and a null
        with what no word got, where the graph has such. The first that is no null has `decided`: a class
        that is the pixel's label, or the background or a negative, which left it unlabelled.

        Needs a segmenter with `explain`. Raises BadInputError without the scores, for a pixel outside of
        the frame, and for an `n` below 1.
        """
        if self.evidence is None:
            raise BadInputError(
                "this result kept no scores to explain its labels by; load the segmenter with "
                "explain=True, or set its `explain`, and label the frame again"
            )
        return self.evidence.top(y, x, n, self.label_map.shape)

    def ids(self, words: Words | None = None) -> tuple[int, ...]:
        """Return the ids of some classes of this frame's vocabulary, None for all.

        Raises BadInputError for a name that is not in it.
        """
        return self.class_ids if words is None else self._named(words)

    def _named(self, words: Words) -> tuple[int, ...]:
        asked = words.split("|") if isinstance(words, str) else words
        asked = list(asked) if isinstance(asked, Iterable) else [asked]
        if not all(isinstance(name, str) for name in asked):
            raise BadInputError(
                "classes are asked for by name, as 'floor|road' or a sequence of names, not by "
                f"{shown(words)}"
            )
        known = {self.classes[class_id]: class_id for class_id in self.class_ids}
        for name in asked or [""]:
            if name.strip() not in known:
                raise BadInputError(
                    f"no class of this result is called {name.strip()!r}"
                    f"{nearest(name.strip(), known)}; it has {listed(known)}"
                )
        return tuple(known[name.strip()] for name in asked)

    def mask(self, words: Words) -> NDArray[np.bool_]:
        """Return, bool [H, W], where the frame is one of some classes, such as `floor|road`.

        Raises BadInputError for a name that is not in this frame's vocabulary, as do all below.
        """
        return mask_of(self.label_map, self._named(words))

    def regions(self, words: Words | None = None, *, min_area: int = 1) -> tuple[Region, ...]:
        """Return what hangs together, the largest first: class, area, box and centroid.

        words: of these classes, None for all; min_area: pixels of the smallest that counts. Raises
        BadInputError also for a `min_area` below 1.
        """
        return regions_of(self.label_map, self.classes, self._present(words), min_area=min_area)

    def polygons(
        self, tolerance: float = 1.0, words: Words | None = None, *, min_area: int = 1
    ) -> tuple[Polygon, ...]:
        """Return the outlines of all regions, with their holes, in the order of the vocabulary.

        tolerance: pixels that an outline may be off, 0 for exact; words, min_area: as of `regions`.
        Raises BadInputError also for a negative tolerance or a `min_area` below 1.
        """
        return polygons_of(
            self.label_map,
            self.classes,
            self._present(words),
            tolerance=tolerance,
            min_area=min_area,
        )

    def free_space(self, words: Words, *, below: int = 0) -> NDArray[np.int64]:
        """Return, int64 [W], the first row of every column, from the bottom up, that is not free.

        words: what is free, such as `floor|road`; unlabelled pixels are not. below: first row that
        counts, such as the horizon's; a column that is free from there down has `below - 1`.

        Raises BadInputError also for a row outside of the picture.
        """
        return obstacle_rows(self.mask(words), below)

    def project_ground(
        self, camera: GroundCamera, words: Words, grid: GroundGrid | None = None
    ) -> OccupancyGrid:
        """Return the ground before the camera from above, in cells: free, occupied, or unknown.

        words: what is free; grid: None for 8 m ahead, 4 m aside, cells of 5 cm. Unlabelled pixels are
        unknown, as is all behind something, outside of the picture, or right before the camera.
        What camera and grid make of a frame's size is worked out once, for the last eight of them.

        Raises BadInputError also when the camera sees no ground of the grid.
        """
        kinds = np.full(self.label_map.shape, OCCUPIED, np.uint8)
        kinds[self.label_map == self.none_id] = UNKNOWN & 0xFF
        kinds[self.mask(words)] = FREE
        return occupancy(kinds, camera, GroundGrid() if grid is None else grid)

    def resized(self, size_hw: tuple[int, int]) -> LabelMap:
        """Return a smaller label map, each of its h x w cells the most frequent id there.

        Unlabelled pixels vote, too; of equally many the lowest id wins. Raises BadInputError for a
        size that is larger than the frame, or empty.
        """
        return majority(self.label_map, size_hw)

    def painted(self) -> NDArray[np.uint8]:
        """Return the label map as a picture, uint8 [H, W, 3] BGR, unlabelled pixels black."""
        return painted(self.label_map, np.array(self.colours_bgr, np.uint8))

    def _present(self, words: Words | None) -> list[int]:
        asked = self.ids(words)
        return [
            class_id for class_id in self.class_ids if class_id in asked and self.counts[class_id]
        ]

    def __repr__(self) -> str:
        height, width = self.label_map.shape
        return (
            f"Segmentation({height}x{width} {self.label_map.dtype}, "
            f"{len(self.class_ids)} classes, version {self.vocabulary_version}, "
            f"{self.total_ms:.1f} ms)"
        )
