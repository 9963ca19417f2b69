"""open_source: every kind of source by its address."""

from __future__ import annotations

import re
from pathlib import Path

from dedos_deploy.errors import SourceError
from dedos_deploy.runtime.frames import Source
from dedos_deploy.runtime.uri import network_scheme, redact

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_CAMERA = re.compile(r"(?:camera:)?(\d+)|(/dev/video\d+)")
_SCENE = "scene:"
_TEST = "test:"
_GLOB_LETTERS = re.compile(r"[*?\[]")

KINDS = (
    "a camera number, /dev/video*, a video file, an image, a folder or quoted glob of images, "
    "an rtsp:// or http:// address, or scene:street / scene:hall"
)


def open_source(uri: str) -> Source:
    """Return the opened source at `uri`, verified to deliver.

    | uri | frames | policy |
    |---|---|---|
    | `0`, `camera:0`, `/dev/video0` | camera | live: the newest wins |
    | `drive.mp4` | video file | every frame |
    | `frame.jpg`, `folder`, `folder/*.png` | images in natural order | every frame |
    | `rtsp://…`, `http://…`, … | stream; a video file at such an address is read as a file | live |
    | `scene:street`, `scene:hall?frames=50&size=240x320&seed=3` | drawn by this package | every |
    | `test:bars?fps=30&size=240x320&frames=100` | bars with the frame's number | live |

    Raises SourceError in one sentence, without credentials.
    """
    if match := _CAMERA.fullmatch(uri):
        from dedos_deploy.runtime.live_sources import open_camera

        return open_camera(int(match[1]) if match[1] else match[2])
    if network_scheme(uri):
        from dedos_deploy.runtime.live_sources import open_network

        return open_network(uri)
    if uri.startswith(_SCENE):
        from dedos_deploy.runtime.scene_source import open_scene

        return open_scene(uri)
    if uri.startswith(_TEST):
        from dedos_deploy.runtime.bars_source import open_test

        return open_test(uri)
    return _open_path(uri)


def _open_path(uri: str) -> Source:
    from dedos_deploy.runtime.image_source import ImageSource, find_images
    from dedos_deploy.runtime.video_source import VideoSource

    path = Path(uri).expanduser()
    if path.is_dir() or (_GLOB_LETTERS.search(uri) and not path.exists()):
        return ImageSource(find_images(path, IMAGE_SUFFIXES), source_id=uri)
    if not path.exists():
        raise SourceError(f"source {redact(uri)!r} does not exist; it can be {KINDS}")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSource([path], source_id=uri)
    return VideoSource(str(path), source_id=uri)
