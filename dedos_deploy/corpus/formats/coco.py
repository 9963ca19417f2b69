"""COCO instances: `annotations/instances_SPLIT.json` with pycocotools' RLE or polygons, and `images/SPLIT`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dedos_deploy.corpus.formats.contract import ExportFrame, ExportPicture, Format, Task
from dedos_deploy.corpus.formats.joined import JsonLists
from dedos_deploy.corpus.formats.objects import FrameObject, objects_of
from dedos_deploy.corpus.formats.outlines import Outline, edge_outlines
from dedos_deploy.errors import require


class Coco(Format):
    """One annotation per object, or per polygon, the largest first; category ids are the classes' places from 1, since 0 means none."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._masks = require("pycocotools.mask", extra="formats", purpose="writing COCO")
        path = task.folder / "annotations" / f"instances_{task.settings.split}.json"
        self._json = JsonLists(path, "images", "annotations")
        self._annotations = 0

    def add(self, frame: ExportFrame, picture: ExportPicture) -> None:
        name = self.place(f"images/{self.task.settings.split}/{frame.name}", picture)
        self._json.add("images", image_entry(frame, name))
        if self.task.settings.polygons:
            for outline in edge_outlines(frame, self.task):
                self._annotate(frame, outline.class_index, self._of_outline(outline, frame))
        else:
            for one in objects_of(frame.labels, self.task.classes):
                self._annotate(frame, one.class_index, self._of_object(one, frame))

    def finish(self) -> None:
        self._json.finish(
            {"info": {"description": self.task.made_by}, "categories": categories(self.task)}
        )

    def _annotate(self, frame: ExportFrame, class_index: int, shape: dict[str, Any]) -> None:
        self._annotations += 1
        entry = {
            "id": self._annotations,
            "image_id": frame.number + 1,
            "category_id": class_index + 1,
            "iscrowd": 0,
        }
        self._json.add("annotations", entry | shape)

    def _of_object(self, one: FrameObject, frame: ExportFrame) -> dict[str, Any]:
        height, width = frame.labels.shape
        runs = self._masks.encode(np.asfortranarray(one.whole_mask((height, width)), np.uint8))
        left, top, right, bottom = one.box_xyxy
        return {
            "area": one.area,
            "bbox": [left, top, right - left, bottom - top],
            "segmentation": {"size": [height, width], "counts": runs["counts"].decode("ascii")},
        }

    def _of_outline(self, outline: Outline, frame: ExportFrame) -> dict[str, Any]:
        polygon = outline.points_xy.ravel().tolist()
        (runs,) = self._masks.frPyObjects([polygon], *frame.labels.shape)
        return {
            "area": int(self._masks.area(runs)),
            "bbox": self._masks.toBbox(runs).tolist(),
            "segmentation": [polygon],
        }


def image_entry(frame: ExportFrame, name: str) -> dict[str, Any]:
    """Return what COCO's files say of a picture. name: path within the export."""
    height, width = frame.labels.shape
    # Names are relative to images/SPLIT.
    return {
        "id": frame.number + 1,
        "file_name": name.rpartition("/")[2],
        "width": width,
        "height": height,
    }


def categories(task: Task) -> list[dict[str, Any]]:
    """Return the classes as COCO's files list them."""
    return [
        {"id": place, "name": one.name, "supercategory": "", "isthing": int(one.is_thing)}
        for place, one in enumerate(task.classes, 1)
    ]
