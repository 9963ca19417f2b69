"""The sets of the nano recipes: what their pictures are, who labels them, and whom that credits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NETS = {
    "cityscapes": "deeplab_mobilenet_edgetpu_slim_cityscapes_quant",
    "voc": "deeplabv3_mnv2_pascal_quant",
    "imagenet": "mobilenet_v2_1.0_224_quant",
}
"""Teachers: the name they get here, and the file in weights/ they are converted from."""

SCENES = {"scenes_street": ("street", 1300), "scenes_hall": ("hall", 900)}

_CORAL = "weights (Apache-2.0), github.com/google-coral/test_data"
CITY_CREDIT = f"Teacher: DeepLab EdgeTPU-slim Cityscapes {_CORAL}"
VOC_CREDIT = f"Teacher: DeepLabV3 MobileNetV2 PASCAL VOC {_CORAL}"
_INTEL = "(CC BY 4.0), github.com/intel-iot-devkit/sample-videos; pseudo labels"
_NOT_OUTDOORS = ("boat", "monitor", "plant", "table")
"""VOC words that its net sees in trees, clouds and cars."""
_SEVERAL = (513, 641, 961)
"""Of pictures that are large enough: near things are named best small, thin and far ones large."""

STREET_CONFIDENCE, ELSEWHERE_CONFIDENCE = 0.5, 0.8
"""How sure a teacher must be of a street like those that the Cityscapes net learned from (at 0.8 it names half of
a sidewalk's pixels and nearly all of a road's, so that sidewalks would be learned as roads) and where it may say
two words at most, and of other pictures, where it is often wrong and rarely sure."""


@dataclass(frozen=True)
class PseudoSet:
    """One set that the teachers label."""

    name: str
    sources: tuple[str, ...]
    """Below the material folder."""
    teachers: tuple[str, ...]
    """The first one is heard first."""
    credits: tuple[str, ...]
    """Where the pictures come from."""
    step: int = 1
    """Every so-many-th frame."""
    words: tuple[str, ...] = ()
    """The only words to keep; empty: all."""
    without: tuple[str, ...] = ()
    """Words never to keep."""
    complete: str | None = None
    """Split of label folders to complete; None for pictures and videos without labels."""
    joined: str | None = None
    """The one word that all classes of such a folder become."""
    sizes_px: tuple[int, ...] = ()
    """Longest sides that the teachers look at, each mirrored, too; empty: the recipe's one."""
    confidence: float = STREET_CONFIDENCE
    """How sure a teacher must be."""


_DAVIS_CREDIT = (
    "DAVIS 2016 videos (BSD, Perazzi et al., CVPR 2016), github.com/davisvideochallenge/davis; "
    "pseudo labels"
)


def _davis(names: str) -> tuple[str, ...]:
    return tuple(f"davis16/images/{name}" for name in names.split(", "))


PSEUDO_SETS = (
    PseudoSet(
        "ccp_street",
        ("ccp_people",),
        ("voc", "cityscapes"),
        (
            "Clothing Co-Parsing photographs (repository Apache-2.0; Yang, Luo, Lin, CVPR 2014), "
            "github.com/bearpaw/clothing-co-parsing; clothes joined to person, the rest pseudo labels",
        ),
        # Who is photographed stands on a pavement, which the net calls road.
        without=(*_NOT_OUTDOORS, "road"),
        complete="train",
        joined="person",
    ),
    PseudoSet(
        "davis_street",
        _davis(
            "car-roundabout, dance-twirl, drift-chicane, drift-straight, parkour, scooter-black, soapbox"
        ),
        ("voc", "cityscapes"),
        (_DAVIS_CREDIT,),
        step=4,
        without=_NOT_OUTDOORS,
    ),
    PseudoSet(
        "davis_nature",
        _davis("blackswan, bmx-trees, cows, dog, goat, motocross-jump, paragliding-launch"),
        # The Cityscapes net calls water a tree, dry grass a building and cows persons.
        ("voc",),
        (_DAVIS_CREDIT,),
        step=4,
        without=_NOT_OUTDOORS,
        confidence=ELSEWHERE_CONFIDENCE,
    ),
    PseudoSet(
        "udacity_highway",
        ("videos/udacity_solidWhiteRight.mp4", "videos/udacity_highway_test_video.mp4"),
        ("cityscapes",),
        (
            "Udacity CarND-LaneLines-P1 test video solidWhiteRight (MIT), "
            "github.com/udacity/CarND-LaneLines-P1; pseudo labels",
            "Udacity CarND-Vehicle-Detection test video (MIT), "
            "github.com/udacity/CarND-Vehicle-Detection; pseudo labels",
        ),
        step=3,
        # Of a motorway the net is less sure, and sees people in its signs.
        words=("road", "sky", "tree", "grass", "car", "truck"),
        confidence=ELSEWHERE_CONFIDENCE,
    ),
    PseudoSet(
        "intel_car",
        ("videos/intel_car-detection.mp4",),
        ("cityscapes",),
        (f"Intel IoT sample video car-detection {_INTEL}",),
        step=12,
        # From above and near, asphalt is a building to the net, and less so in small pictures.
        words=("road", "car"),
        sizes_px=(513,),
    ),
    PseudoSet(
        "intel_people",
        ("videos/intel_one-by-one-person-detection.mp4",),
        ("voc",),
        (f"Intel IoT sample video one-by-one-person-detection {_INTEL}",),
        step=24,
        words=("person",),
    ),
    PseudoSet(
        "lums_road_completed",
        ("lums_road",),
        ("cityscapes",),
        (
            "LUMS campus roads: Roboflow Universe senior-project-irtnh/lums-road-dataset (CC BY 4.0), "
            "github.com/faizanali710/LUMS-Road-Dataset; files repaired, background completed with "
            "pseudo labels",
        ),
        complete="train",
        sizes_px=_SEVERAL,
    ),
)

CREDITS = {
    "Features of cityscapes.onnx": CITY_CREDIT,
    "Features of voc.onnx": VOC_CREDIT,
    "Detail branch: cityscapes.onnx": f"Detail branch: weights of the DeepLab EdgeTPU-slim Cityscapes {_CORAL}",
    "Features of imagenet.onnx": f"Teacher: MobileNetV2 ImageNet {_CORAL}",
    "dhcn_hall": "DHCN hall: Roboflow Universe tqbdataset/dhcn_dataset v1 (CC BY 4.0), "
    "github.com/buinghia3101/DHCN_dataset.v1i.png-mask-semantic; salt-and-pepper noise removed, "
    "classes renamed",
    "tqb_hall": "TQB hall: Roboflow Universe cttnhh-1-mnh-t/tqb-data-500 v3 (CC BY 4.0), "
    "github.com/buinghia3101/TQBdataset.Taquangbuudata.v3i.png-mask-semantic; crops merged, "
    "classes renamed",
}


def credited(lines: Sequence[str]) -> list[str]:
    """Return credits with those of folders and nets that carry none of their own put in."""
    return list(dict.fromkeys(CREDITS.get(line, line) for line in lines))
