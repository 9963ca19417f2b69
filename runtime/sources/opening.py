"""open_source: every kind of source by its address."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dedos_deploy.errors import SourceError
from dedos_deploy.files import check_regular
from dedos_deploy.pictures import IMAGE_SUFFIXES
from dedos_deploy.places import Read
from dedos_deploy.runtime.dds_address import is_topic
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.opencv import require_opencv
from dedos_deploy.runtime.sources.contract import Source
from dedos_deploy.runtime.uri import network_scheme, redact

if TYPE_CHECKING:
    from dedos_deploy.runtime.flow.feed_options import Reconnect

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")
"""Of the videos that are looked for in a folder; named alone, a file may end as it likes."""

_CAMERA = re.compile(r"(?:camera:)?(\d+)(?:\?(.*))?|(/dev/video\d+)(?:\?(.*))?")
_SCENE = "scene:"
_TEST = "test:"
_GST = ("gst:", "csi:")
_FILE_IN_PIPELINE = re.compile(r"""(?:location=|file://)("[^"]+"|'[^']+'|[^\s"']+)""")
_GLOB_LETTERS = re.compile(r"[*?\[]")

KINDS = (
    "a camera number, /dev/video*, a video file, an image, a folder or quoted glob of images, an "
    "rtsp:// or http:// address, gst:PIPELINE, csi:0, a .mcap or .bag recording, ros2:/TOPIC, or "
    "scene:street / scene:hall"
)


def open_source(uri: str, *, reconnect: Reconnect | None = None) -> Source:
    """Return the opened source at `uri`, verified to deliver.

    | uri | frames | policy |
    |---|---|---|
    | `0`, `camera:0`, `/dev/video0`, `0?size=720x1280&fps=30&format=MJPG` | camera | live: the newest wins |
    | `drive.mp4` | video file | every frame |
    | `frame.jpg`, `folder`, `folder/*.png` | images in natural order | every frame |
    | `rtsp://…`, `rtsp+udp://…`, `http://…` | stream; a video file at such an address is read as a file | live |
    | `rtsp://…?decode=gpu`, `?decode=gpu&codec=h265` | stream decoded by the GPU, if GStreamer and OpenCV can | live |
    | `gst:PIPELINE`, `csi:0?size=720x1280&fps=30` | GStreamer, if OpenCV has it | live |
    | `drive.mcap`, `drive.bag`, a ROS 2 bag's folder, `?topic=/image&rate=1` | recording | every; live with rate |
    | `ros2:/camera/image?domain=3&reliability=best_effort&depth=5` | topic of ROS 2, over DDS (extra `dds`) | live |
    | `scene:street`, `scene:hall?frames=50&size=240x320&seed=3` | drawn by this package | every |
    | `test:bars?fps=30&size=240x320&frames=100` | bars with the frame's number | live |

    reconnect: how a live source that stops is opened again, None for what suits its kind.
    Raises SourceError in one sentence, without credentials.
    """
    from dedos_deploy.runtime.sources.live import kept_newest

    return kept_newest(connect(uri), reconnect or reconnect_of(uri))


def reconnect_of(uri: str) -> Reconnect:
    """Return how a live source is opened again where nobody says otherwise."""
    from dedos_deploy.runtime.flow.feed_options import Reconnect

    return (
        Reconnect()
        if network_scheme(uri) or is_topic(uri)
        else Reconnect(attempts=5, longest_s=5.0)
    )


def connect(uri: str) -> Source:
    """Return the source at `uri` for a Feed, which reads it all the time and opens it again.

    A camera or stream is not read until it is asked, so that its frames grow old meanwhile. Otherwise as
    `open_source`. Raises SourceError.
    """
    require_opencv()
    if match := _CAMERA.fullmatch(uri):
        from dedos_deploy.runtime.sources.live import connect_camera, parse_camera_mode

        query = match[2] or match[4]
        mode = parse_camera_mode(uri, query) if query else None
        return connect_camera(int(match[1]) if match[1] else match[3], mode=mode)
    if uri.startswith(_GST):
        from dedos_deploy.runtime.sources.gstreamer import connect_gstreamer

        return connect_gstreamer(uri)
    from dedos_deploy.runtime.sources.gpu_decoding import connect_decoded, wants_gpu

    if wants_gpu(uri):
        return connect_decoded(uri)
    if network_scheme(uri):
        from dedos_deploy.runtime.sources.live import connect_network

        return connect_network(uri)
    if is_topic(uri):
        from dedos_deploy.runtime.sources.dds import connect_topic

        return connect_topic(uri)
    if uri.startswith(_SCENE):
        from dedos_deploy.runtime.sources.scenes import open_scene

        return open_scene(uri)
    if uri.startswith(_TEST):
        from dedos_deploy.runtime.sources.bars import open_test

        return open_test(uri)
    try:
        return _open_path(uri)
    except OSError as error:
        raise SourceError(
            f"source {redact(uri)!r} cannot be read ({error.strerror}); it can be {KINDS}"
        ) from error


def frames_at(path: Path, choose: Callable[[int], Collection[int]]) -> Iterator[Frame]:
    """Yield frames of a video or recording; choose: number of frames -> numbers of those wanted.

    Read from the start, since seeking lands on other frames with other builds of FFmpeg. A file
    that does not say how many frames it has is read once more to count them. Raises SourceError.
    """
    address = os.path.abspath(path)  # a file called 0 is no camera
    with open_source(address) as source:
        total = source.frames
    if total is None:
        total = count_frames(path)
    wanted = choose(total)
    last = max(wanted, default=-1)
    with open_source(address) as source:
        for number, frame in enumerate(source):
            if number in wanted:
                yield frame
            if number >= last:
                return


def count_frames(path: Path) -> int:
    """Return how many frames a video or recording has, whatever it says; raises SourceError."""
    with open_source(os.path.abspath(path)) as source:
        return sum(1 for _ in source)


def may_come_later(uri: str) -> bool:
    """Return whether an address may well be unreachable now and deliver later: a device or a stream.

    >>> may_come_later("rtsp://gate/live"), may_come_later("drive.mp4")
    (True, False)
    """
    if _CAMERA.fullmatch(uri) or uri.startswith(_GST) or is_topic(uri):
        return True
    return network_scheme(uri) is not None


def check_later(uri: str) -> None:
    """Raise SourceError, or MissingExtraError, where what may come later never can: of a topic, whose
    address is known to be wrong before anybody is asked."""
    if is_topic(uri):
        from dedos_deploy.runtime.sources.dds import check_topic

        check_topic(uri)


def read_from(uri: str) -> Read:
    """Return the files and folders that the source at `uri` is read from, as far as they exist."""
    what = f"source {redact(uri)!r}"
    if may_come_later(uri):
        named = (match[1].strip("\"'") for match in _FILE_IN_PIPELINE.finditer(uri))
        return Read(what, tuple(Path(name) for name in named if os.path.isfile(name)))
    path = Path(os.path.expanduser(uri))
    if os.path.exists(path):
        return Read(what, (path,))
    # A recording's address may end in settings, whose mark is one of a glob, too.
    bare = Path(os.path.expanduser(uri.partition("?")[0]))
    if found := tuple(map(Path, glob.glob(str(path), recursive=True))):
        return Read(what, found, pattern=str(path))
    return Read(what, (bare,) if os.path.exists(bare) else ())


def paths_of(uri: str) -> tuple[Path, ...]:
    """Return what `read_from` has of a source that is a file or folder itself."""
    return () if may_come_later(uri) else read_from(uri).paths


def _open_path(uri: str) -> Source:
    from dedos_deploy.runtime.sources.bags import is_bag, open_bag
    from dedos_deploy.runtime.sources.images import ImageSource, find_images
    from dedos_deploy.runtime.sources.video import VideoSource

    path = Path(os.path.expanduser(uri))
    if is_bag(uri):
        return open_bag(uri)
    if path.is_dir() or (_GLOB_LETTERS.search(uri) and not path.exists()):
        return ImageSource(find_images(path, IMAGE_SUFFIXES), source_id=uri)
    if not path.exists():
        raise SourceError(f"source {redact(uri)!r} does not exist; it can be {KINDS}")
    # Names such as /dev/v4l/by-id/... of cameras are links to devices.
    if not _CAMERA.fullmatch(os.path.realpath(path)):
        check_regular(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSource([path], source_id=uri)
    return VideoSource(str(path), source_id=uri)
