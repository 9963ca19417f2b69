"""Reader of COCO-Stuff 164k: 118,287 training and 5,000 validation images, 171 classes.

    images/{train2017,val2017}/*.jpg, or the same folders without images/
    stuffthingmaps_trainval2017/{train2017,val2017}/*.png, as published (also called stuffthingmaps
        or annotations): category id - 1, so 0..181 without 11 ids that no pixel has, 255 unlabelled
    stuffthingmaps_detectron2/ or annotations_detectron2/, {train2017,val2017 or test2017}/*.png, as
        converted for detectron2: 0..170 in the same order, 255 unlabelled, and no file for an image without any label

The published maps are used where both are there; nothing has to be converted.
"""

from __future__ import annotations

from pathlib import Path

from dedos_deploy.errors import BadInputError
from dedos_deploy.label_files import paired
from dedos_deploy.training.folders import LabelFolder

# Ids and names are from https://github.com/nightrome/cocostuff/blob/master/labels.txt,
# H. Caesar, J. Uijlings, V. Ferrari, CVPR 2018; CC BY 4.0.

CREDIT = (
    "COCO-Stuff 164k, H. Caesar, J. Uijlings, V. Ferrari, CVPR 2018: annotations CC BY 4.0, COCO "
    "annotations CC BY 4.0, images under the terms of Flickr"
)

THINGS = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, "
    "fire hydrant, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, "
    "bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, "
    "sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, "
    "bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, "
    "carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, "
    "tv, laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, "
    "refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush"
).split(", ")

STUFF = (
    "banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, "
    "ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, "
    "dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, "
    "flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, "
    "leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, "
    "pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, "
    "roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, "
    "straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, "
    "wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, "
    "waterdrops, window-blind, window-other, wood"
).split(", ")

NAMES = (*THINGS, *STUFF)
"""The 171 published names, in the order of their ids."""

UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
"""Of the ids 1..182, those of COCO's things that never were segmented."""

MAP_VALUES = tuple(number - 1 for number in range(1, 183) if number not in UNUSED_IDS)
"""What a published map holds for each of NAMES."""

_SPELLED = {
    "ceiling-tile": "tile ceiling",
    "floor-marble": "marble floor",
    "floor-stone": "stone floor",
    "floor-tile": "tile floor",
    "floor-wood": "wood floor",
    "playingfield": "playing field",
    "structural-other": "structure",
    "wall-brick": "brick wall",
    "wall-concrete": "concrete wall",
    "wall-panel": "wall panel",
    "wall-stone": "stone wall",
    "wall-tile": "tile wall",
    "wall-wood": "wood wall",
    "waterdrops": "water drops",
    "window-blind": "window blind",
}


def spoken(name: str) -> str:
    """Return the word of a published name, as a text encoder and other data sets have it.

    The suffixes only tell the stuff from things that the maps do not contain.

    >>> spoken("sky-other"), spoken("door-stuff"), spoken("wall-brick")
    ('sky', 'door', 'brick wall')
    """
    return _SPELLED.get(name, name.removesuffix("-other").removesuffix("-stuff"))


WORDS = tuple(spoken(name) for name in NAMES)

_SPLITS = {"train": "train2017", "val": "val2017"}
_IMAGES = ("images", "")
_PUBLISHED = ("stuffthingmaps_trainval2017", "stuffthingmaps", "annotations")
_CONVERTED = ("stuffthingmaps_detectron2", "annotations_detectron2")
_MAPS_URL = (
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
    "stuffthingmaps_trainval2017.zip"
)


def is_coco_stuff(root: Path) -> bool:
    """Whether a folder has maps of COCO-Stuff and is no plain label folder."""
    return not (root / "classes.txt").is_file() and any(root.glob("stuffthingmaps*/"))


def coco_stuff_splits(root: Path) -> tuple[str, ...]:
    """Return those of train and val that have images or maps."""
    return tuple(name for name in _SPLITS if _images(root, name) or _maps(root, name))


def open_coco_stuff(root: Path, split: str) -> LabelFolder:
    """Return a checked split, `train` or `val`, of COCO-Stuff 164k.

    Raises BadInputError that says what is missing and where it can be had.
    """
    if split not in _SPLITS:
        raise BadInputError(f"COCO-Stuff has no split {split!r}; its splits are train and val")
    images, maps = _images(root, split), _maps(root, split)
    folder = _SPLITS[split]
    if images is None:
        raise BadInputError(
            f"{root} has no images of COCO-Stuff: neither images/{folder} nor {folder} is there; "
            f"unpack http://images.cocodataset.org/zips/{folder}.zip in {root / 'images'}"
        )
    if maps is None:
        raise BadInputError(
            f"{root} has no label maps of COCO-Stuff for {images.relative_to(root)}: "
            f"{_PUBLISHED[0]}/{folder} is not there; unpack {_MAPS_URL} in {root / _PUBLISHED[0]}"
        )
    converted = maps.parent.name in _CONVERTED
    items = paired(images, maps, all_labelled=not converted)
    values = None if converted else MAP_VALUES
    return LabelFolder(root.name, WORDS, items, credits=(CREDIT,), values=values)


def _images(root: Path, split: str) -> Path | None:
    folders = (root / parent / _SPLITS[split] for parent in _IMAGES)
    return next((folder for folder in folders if folder.is_dir()), None)


def _maps(root: Path, split: str) -> Path | None:
    folders = [root / parent / _SPLITS[split] for parent in (*_PUBLISHED, *_CONVERTED)]
    if split == "val":
        # One of the scripts in use calls the validation split so.
        folders.extend(root / parent / "test2017" for parent in _CONVERTED)
    return next((folder for folder in folders if folder.is_dir()), None)
