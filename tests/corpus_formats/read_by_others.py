"""Read exports with other people's readers; runs in the environment of `.ci/formats`, which has not our package.

python read_by_others.py JOBS.json, a list of [reader, folder, file]: label maps go into the .npz file by the
names of pictures, uint16 with 65535 where nothing is labelled, and what the reader calls the classes as `#names`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

NONE = 65535
Maps = dict[str, Any]


def painted(size_hw: tuple[int, int], masks: Iterable[tuple[int, Any]]) -> Any:
    """Return a label map of (class, mask) pairs; a pixel that two classes claim fails."""
    labels = np.full(size_hw, NONE, np.uint16)
    for index, mask in masks:
        mask = np.asarray(mask).astype(bool)
        assert not ((labels != NONE) & (labels != index) & mask).any(), "classes overlap"
        labels[mask] = index
    return labels


def class_masks(size_hw: tuple[int, int], masks: Iterable[tuple[int, Any]], count: int) -> Any:
    """Return bool [K, H, W], the union of each class's masks: polygons of holes may overlap."""
    found = np.zeros((count, *size_hw), bool)
    for index, mask in masks:
        found[index] |= np.asarray(mask).astype(bool)
    return found


def pycocotools_masks(folder: Path) -> Maps:
    from pycocotools.coco import COCO

    coco = COCO(str(folder / "annotations/instances_train.json"))
    names = [coco.cats[number]["name"] for number in sorted(coco.cats)]
    found: Maps = {"#names": names}
    for image in coco.imgs.values():
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        for one in annotations:
            assert one["area"] == coco.annToMask(one).sum()
        pairs = ((one["category_id"] - 1, coco.annToMask(one)) for one in annotations)
        size = (image["height"], image["width"])
        found[image["file_name"].partition(".")[0]] = class_masks(size, pairs, len(names))
    return found


def datumaro_items(folder: Path, kind: str) -> Iterator[tuple[list[str], Any]]:
    from datumaro.components.annotation import AnnotationType
    from datumaro.components.dataset import Dataset

    data = Dataset.import_from(str(folder), kind)
    names = [label.name for label in data.categories()[AnnotationType.label]]
    for item in data:
        assert item.media.data is not None, "the picture is read, too"
        yield names, item


def datumaro_maps(kind: str) -> Callable[[Path], Maps]:
    def read(folder: Path) -> Maps:
        found: Maps = {}
        for names, item in datumaro_items(folder, kind):
            masks = [one for one in item.annotations if one.type.name == "mask"]
            found["#names"] = names
            pairs = ((one.label, one.image) for one in masks)
            found[Path(item.id).name] = painted(item.media.size, pairs)
        return found

    return read


def datumaro_polygons(folder: Path) -> Maps:
    """CVAT's polygons, which datumaro reads, filled as CVAT fills them."""
    from pycocotools import mask

    found: Maps = {}
    for names, item in datumaro_items(folder, "cvat"):
        height, width = item.media.size
        filled = (
            (one.label, mask.decode(mask.frPyObjects([one.points], height, width))[..., 0])
            for one in item.annotations
            if one.type.name == "polygon"
        )
        found["#names"] = names
        found[item.id] = class_masks((height, width), filled, len(names))
    return found


def supervision_yolo(folder: Path) -> Maps:
    import supervision

    data = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(folder / "images/train"),
        annotations_directory_path=str(folder / "labels/train"),
        data_yaml_path=str(folder / "data.yaml"),
        force_masks=True,
    )
    found: Maps = {"#names": data.classes}
    for path, picture, detections in data:
        pairs = zip(detections.class_id, detections.mask, strict=True)
        masks = class_masks(picture.shape[:2], pairs, len(data.classes))
        found[Path(path).stem] = masks
    return found


def label_studio(folder: Path) -> Iterator[tuple[list[str], Any, list[Any]]]:
    """Yield what Label Studio's own checks let pass: names, task and result."""
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface((folder / "label_config.xml").read_text(encoding="utf-8"))
    names = list(interface.get_control("brush").labels)
    for task in json.loads((folder / "tasks.json").read_text(encoding="utf-8")):
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction)
        yield names, task, prediction["result"]


def brush_module() -> Any:
    """Its converter for brushes, without the converter for everything, which takes seconds to load."""
    package = Path(importlib.util.find_spec("label_studio_sdk").origin).parent
    spec = importlib.util.spec_from_file_location("brush", package / "converter/brush.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def label_studio_brushes(folder: Path) -> Maps:
    brush = brush_module()
    found: Maps = {}
    for names, task, results in label_studio(folder):
        flat = [{**one, **one["value"]} for one in results]
        layers = brush.decode_from_annotation("brush", flat)
        pairs = ((names.index(layer.split("-")[1]), mask) for layer, mask in layers.items())
        size = (flat[0]["original_height"], flat[0]["original_width"])
        found["#names"] = names
        found[task["data"]["image"].rpartition("/")[2].partition(".")[0]] = painted(size, pairs)
    return found


def label_studio_polygons(folder: Path) -> Maps:
    from pycocotools import mask

    found: Maps = {}
    for names, task, results in label_studio(folder):
        size = (results[0]["original_height"], results[0]["original_width"])
        pairs = []
        for one in results:
            points = np.array(one["value"]["points"]) * (size[1], size[0]) / 100
            filled = mask.decode(mask.frPyObjects([points.ravel().tolist()], *size))[..., 0]
            pairs.append((names.index(one["value"]["polygonlabels"][0]), filled))
        found["#names"] = names
        name = task["data"]["image"].rpartition("/")[2].partition(".")[0]
        found[name] = class_masks(size, pairs, len(names))
    return found


def web_dataset(folder: Path) -> Maps:
    import webdataset

    shards = sorted(map(str, folder.glob("train-*.tar")))
    found: Maps = {"#names": (folder / "classes.txt").read_text(encoding="utf-8").splitlines()}
    for sample in webdataset.WebDataset(shards, shardshuffle=False).decode("pil"):
        labels = np.asarray(sample["seg.png"]).astype(np.uint16)
        if labels.ndim == 3:  # its decoder makes every picture RGB
            assert (labels == labels[..., :1]).all()
            labels = labels[..., 0]
        picture = next(sample[suffix] for suffix in ("jpg", "png") if suffix in sample)
        assert (picture.height, picture.width) == labels.shape
        assert sample["json"]["width"] == picture.width
        found[sample["__key__"]] = np.where(labels == 255, NONE, labels)
    return found


def grey_pngs(folder: Path) -> Maps:
    """Cityscapes' train ids, which datumaro's reader drops the first of."""
    from PIL import Image

    paths = folder.glob("gtFine/train/dedos/*_gtFine_labelTrainIds.png")
    maps = {path.name.removesuffix("_gtFine_labelTrainIds.png"): path for path in paths}
    opened = {name: np.asarray(Image.open(path)).astype(np.uint16) for name, path in maps.items()}
    found: Maps = {name: np.where(ids == 255, NONE, ids) for name, ids in opened.items()}
    return {**found, "#names": []}


READERS: dict[str, Callable[[Path], Maps]] = {
    "pycocotools": pycocotools_masks,
    "datumaro coco": datumaro_maps("coco"),
    "datumaro coco_panoptic": datumaro_maps("coco_panoptic"),
    "datumaro cvat": datumaro_maps("cvat"),
    "datumaro cvat polygons": datumaro_polygons,
    "datumaro voc": datumaro_maps("voc_segmentation"),
    "datumaro cityscapes": datumaro_maps("cityscapes"),
    "supervision": supervision_yolo,
    "label_studio_sdk": label_studio_brushes,
    "label_studio_sdk polygons": label_studio_polygons,
    "webdataset": web_dataset,
    "pillow": grey_pngs,
}


def main(jobs: str) -> None:
    for reader, folder, file in json.loads(Path(jobs).read_text(encoding="utf-8")):
        np.savez_compressed(file, **READERS[reader](Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1])
