"""Label Studio: `tasks.json` with predictions to accept or correct, and `label_config.xml` of the project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from xml.sax.saxutils import quoteattr

from dedos_deploy.corpus.formats.contract import ExportFrame, ExportPicture, Format, Task
from dedos_deploy.corpus.formats.joined import Pieces
from dedos_deploy.corpus.formats.objects import objects_of
from dedos_deploy.corpus.formats.options import LOCAL_FILES
from dedos_deploy.corpus.formats.outlines import edge_outlines
from dedos_deploy.corpus.formats.run_lengths import brush_from_mask

NAME = "dedos_name"
"""Key of a task's data that keeps the name of the picture, however Label Studio calls the file."""

BRUSH, POLYGON = "brushlabels", "polygonlabels"


class LabelStudio(Format):
    """One task per frame; its prediction has a brush region per object, or a polygon per region.

    The prediction's score is the margin, so tasks can be ordered by it.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self._path = task.folder / "tasks.json"
        self._tasks = Pieces(self._path, "tasks")
        self._url = LOCAL_FILES if task.settings.url is None else task.settings.url

    def add(self, frame: ExportFrame, picture: ExportPicture) -> None:
        name = self.place(f"images/{frame.name}", picture).partition("/")[2]
        found = self._polygons(frame) if self.task.settings.polygons else self._brushes(frame)
        height, width = frame.labels.shape
        common = {"to_name": "image", "original_width": width, "original_height": height}
        results = [
            {"id": f"{number}", **common, "image_rotation": 0, **result}
            for number, result in enumerate(found)
        ]
        prediction = {
            "model_version": self.task.made_by,
            "score": round(frame.margin, 6),
            "result": results,
        }
        entry = {
            "data": {"image": f"{self._url}{name}", NAME: name},
            "predictions": [prediction],
        }
        text = json.dumps(entry, ensure_ascii=False, allow_nan=False)
        self._tasks.add(("" if self._tasks.count == 0 else ",\n") + text)

    def finish(self) -> None:
        with self._path.open("xb") as file:
            file.write(b"[\n")
            self._tasks.move_to(file)
            file.write(b"\n]\n")
        self.write_text("label_config.xml", list(self._config()))

    def _brushes(self, frame: ExportFrame) -> Iterator[dict[str, Any]]:
        height, width = frame.labels.shape
        for one in objects_of(frame.labels, self.task.classes):
            value = {"format": "rle", "rle": brush_from_mask(one.whole_mask((height, width)))}
            yield self._result("brush", BRUSH, one.class_index, value)

    def _polygons(self, frame: ExportFrame) -> Iterator[dict[str, Any]]:
        height, width = frame.labels.shape
        for outline in edge_outlines(frame, self.task):
            points = (100 * outline.points_xy / (width, height)).round(6).tolist()
            value = {"points": points, "closed": True}
            yield self._result("polygon", POLYGON, outline.class_index, value)

    def _result(
        self, control: str, kind: str, class_index: int, value: dict[str, Any]
    ) -> dict[str, Any]:
        name = self.task.classes[class_index].name
        return {"from_name": control, "type": kind, "value": {**value, kind: [name]}}

    def _config(self) -> Iterator[str]:
        yield "<View>"
        yield '  <Image name="image" value="$image" zoom="true"/>'
        for tag, control in (("BrushLabels", "brush"), ("PolygonLabels", "polygon")):
            yield f'  <{tag} name="{control}" toName="image">'
            for one in self.task.classes:
                colour = f"#{bytes(one.colour_rgb).hex()}"
                yield f'    <Label value={quoteattr(one.name)} background="{colour}"/>'
            yield f"  </{tag}>"
        yield "</View>"
