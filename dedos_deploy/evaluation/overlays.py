"""Pictures of an evaluation: image, labels, answer and mistakes of the best and worst images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dedos_deploy.evaluation.confusion import Ids
from dedos_deploy.evaluation.data import EvaluationData
from dedos_deploy.evaluation.predictors import Predictor
from dedos_deploy.evaluation.records import ImageRecord, confusion_of
from dedos_deploy.pictures import Picture
from dedos_deploy.runtime.sinks.palette import Colour, colours_of, css_colour

KINDS = ("best", "median", "worst")
EACH = 2
"""Images shown of every kind."""

PANEL_WIDTH = 480
"""Widest panel in pixels; larger images are shown smaller."""

_UNKNOWN = 96
"""Grey of pixels without a class."""
_WRONG = (60, 60, 230)


@dataclass(frozen=True)
class Chosen:
    """An image to show."""

    kind: str
    """One of KINDS."""
    name: str
    miou: float
    """Over the classes that its labels contain."""


@dataclass(frozen=True, eq=False)
class Shown:
    """The panels of one image, uint8 [h, w, 3] each, and what their colours mean."""

    chosen: Chosen
    image: Picture
    labels: Picture
    answer: Picture
    mistakes: Picture
    """Wrong pixels red, those that do not count grey."""
    legend: tuple[tuple[str, str], ...]
    """Class and colour as #rrggbb."""


def image_miou(record: ImageRecord, classes: int) -> float:
    """Return the mean IoU of one image over the classes that its labels contain."""
    return confusion_of([record], classes).miou_present


def choose(records: Sequence[ImageRecord], classes: int, each: int = EACH) -> list[Chosen]:
    """Return the best, the median and the worst images, at most `each` of a kind, none twice."""
    ranked = sorted(
        ((image_miou(record, classes), record.name) for record in records if not record.skipped),
        key=lambda pair: (-pair[0], pair[1]),
    )
    each = min(each, max(1, len(ranked) // len(KINDS)))
    middle = max(each, (len(ranked) - each) // 2)
    groups = (ranked[:each], ranked[middle : middle + each], ranked[each:][-each:])
    found: list[Chosen] = []
    for kind, group in zip(KINDS, groups, strict=True):
        taken = {one.name for one in found}
        found += [Chosen(kind, name, miou) for miou, name in group if name not in taken]
    return found


def show(chosen: Sequence[Chosen], predictor: Predictor, data: EvaluationData) -> list[Shown]:
    """Return the pictures of chosen images, their labels asked for anew."""
    position = {name: index for index, name in enumerate(data.image_names)}
    found = []
    for one in chosen:
        image = data.image(position[one.name])
        answer = data.fold(predictor.predict(image.image_bgr).ids)
        found.append(_shown(one, image.image_bgr, image.labels, answer, data))
    return found


def _shown(one: Chosen, image: Picture, labels: Ids, answer: Ids, data: EvaluationData) -> Shown:
    names = data.classes
    classes, colours = len(names), colours_of(names)
    counts = labels != data.ignore
    wrong = counts & (labels != answer)
    mistakes = (image // 2 + 64).astype(np.uint8)
    mistakes[wrong] = _WRONG
    mistakes[~counts] = _UNKNOWN
    occur = np.unique(np.concatenate([labels[counts], answer[answer < classes]]))
    return Shown(
        one,
        image=_fitted(image),
        labels=_fitted(_painted(image, labels, colours)),
        answer=_fitted(_painted(image, answer, colours)),
        mistakes=_fitted(mistakes),
        legend=tuple((names[index], css_colour(colours[index])) for index in occur),
    )


def _painted(image: Picture, ids: Ids, colours: Sequence[Colour]) -> Picture:
    palette = np.array([*colours, (_UNKNOWN,) * 3], np.uint8)
    painted = palette[np.minimum(ids, len(colours)).astype(np.intp)]
    mixed: Picture = (0.3 * image + 0.7 * painted).round().astype(np.uint8)
    return mixed


def _fitted(panel: Picture) -> Picture:
    import cv2

    height, width = panel.shape[:2]
    if width <= PANEL_WIDTH:
        return panel
    size_wh = (PANEL_WIDTH, max(1, round(height * PANEL_WIDTH / width)))
    return np.asarray(cv2.resize(panel, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
