"""open_sink: every kind of sink by its address, and the contract of all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dedos_deploy.errors import BadInputError, SinkError
from dedos_deploy.places import Written
from dedos_deploy.runtime.dds_address import is_topic
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink, SinkOptions
from dedos_deploy.runtime.sinks.outputs import FOLDER_HOLDS
from dedos_deploy.runtime.uri import redact

VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
LINES_SUFFIX = ".jsonl"
MCAP_SUFFIX = ".mcap"
VIEWER_SCHEMES = ("rerun+http://", "rerun+https://")
KINDS = (
    "a video (.mp4, .webm, .avi, .mkv), a picture (.png, .jpg), JSON lines (.jsonl), masks:FOLDER, "
    "overlays:FOLDER, a recording (.mcap, .rrd), ros2:/NAMESPACE, window, or null"
)


class NullSink(Sink):
    """Takes everything and keeps nothing."""

    uri = "null"

    def write(self, frame: Frame, result: Segmentation) -> None:
        """Drop the result."""

    def close(self) -> None:
        """Nothing is held."""


def open_sink(uri: str, options: SinkOptions | None = None) -> Sink:
    """Return the opened sink at `uri`, verified to be writable.

    | uri | what is written |
    |---|---|
    | `out.mp4`, `.webm` | overlay video with each frame at its time (`SinkOptions.codec`); appears when complete, of a live source with its first frame |
    | `out.avi`, `.mkv` | overlay video of JPEGs at a constant rate; appears when complete |
    | `out.png`, `.jpg` | overlay of the last frame |
    | `overlays:FOLDER` | one overlay JPEG per frame |
    | `masks:FOLDER` | one label map PNG per frame (uint8 or uint16 ids), `classes.json` and `classes.txt` |
    | `out.jsonl` | one JSON line per frame, readable while it grows |
    | `out.mcap` | pictures, label maps, labels and numbers in Foxglove's schemas (extra `bags`) |
    | `out.mcap?profile=ros2` | the same as messages of ROS 2 |
    | `out.rrd`, `rerun+http://host:9876/proxy` | the same for Rerun, as a file or to a viewer (extra `rerun`) |
    | `ros2:/dedos?domain=3&also=confidence,overlay,resized` | topics of ROS 2, over DDS (extra `dds`) |
    | `window` | a window; q or Esc ends the run |
    | `null` | nothing |

    Raises SinkError: unknown kind, not writable, exists (see SinkOptions.overwrite), no display.
    """
    options = options or SinkOptions()
    if uri.startswith(VIEWER_SCHEMES):
        from dedos_deploy.runtime.sinks.rerun import RerunSink

        return RerunSink(uri, options)
    if is_topic(uri):
        from dedos_deploy.runtime.sinks.dds import TopicSink

        return TopicSink(uri, options)
    if uri == "null":
        return NullSink()
    if uri == "window":
        from dedos_deploy.runtime.sinks.window import WindowSink

        return WindowSink(options)
    if uri.startswith(("masks:", "overlays:")):
        return _folder_sink(uri, options)
    return _file_sink(uri, options)


def written_by(uri: str) -> Written | None:
    """Return the file or folder that the sink at `uri` writes, None for one that writes none."""
    if uri.startswith(VIEWER_SCHEMES) or is_topic(uri) or uri in ("null", "window"):
        return None
    kind, colon, name = uri.partition(":")
    is_folder = bool(colon) and kind in ("masks", "overlays")
    path = Path(os.path.expanduser(name)) if is_folder else _file_of(uri)
    return Written(f"output {uri!r}", path, FOLDER_HOLDS if is_folder else ())


def check_topics_apart(uris: Sequence[str]) -> None:
    """Raise BadInputError where two outputs would publish the same topics, SinkError for addresses."""
    topics = [uri for uri in uris if is_topic(uri)]
    if len(topics) < 2:
        return
    from dedos_deploy.runtime.sinks.dds import topics_at

    taken: dict[tuple[str, int], str] = {}
    for uri in topics:
        address = topics_at(uri)
        topic = address.name, address.domain
        if topic in taken:
            raise BadInputError(
                f"output {taken[topic]!r} and output {uri!r} publish the same topics; write one with the "
                "settings of both, or give each a name of its own"
            )
        taken[topic] = uri


def _file_of(uri: str) -> Path:
    """Return the file that an output's address names, without the settings of an MCAP."""
    address = uri.partition("?")[0]
    return Path(os.path.expanduser(address if address.lower().endswith(MCAP_SUFFIX) else uri))


def _folder_sink(uri: str, options: SinkOptions) -> Sink:
    from dedos_deploy.runtime.sinks.files import MaskFolder, OverlayFolder

    kind, _, name = uri.partition(":")
    if not name:
        raise SinkError(f"output {uri!r} names no folder; write {kind}:FOLDER")
    folder = Path(os.path.expanduser(name))
    return MaskFolder(folder, options) if kind == "masks" else OverlayFolder(folder, options)


def _file_sink(uri: str, options: SinkOptions) -> Sink:
    from dedos_deploy.runtime.sinks.files import JsonLines, LastPicture
    from dedos_deploy.runtime.sinks.video import GrowingVideo, VideoSink, WholeVideo

    path = _file_of(uri)
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        if suffix in (".mp4", ".webm"):
            return GrowingVideo(path, options) if options.live else WholeVideo(path, options)
        return VideoSink(path, options)
    if suffix == MCAP_SUFFIX:
        from dedos_deploy.runtime.sinks.mcap import open_mcap

        return open_mcap(path, options, uri=uri)
    if suffix == ".rrd":
        from dedos_deploy.runtime.sinks.rerun import RerunSink

        return RerunSink(path, options)
    if suffix in PICTURE_SUFFIXES:
        return LastPicture(path, options)
    if suffix == LINES_SUFFIX:
        return JsonLines(path, options)
    raise SinkError(f"unknown output {redact(uri)!r}; an output is {KINDS}")
