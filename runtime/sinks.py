"""open_sink: every kind of sink by its address, and the contract of all of them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dedos_deploy.closing import Closing
from dedos_deploy.errors import SinkError
from dedos_deploy.runtime.frames import Frame
from dedos_deploy.runtime.overlay import OverlayPainter
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.uri import redact

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv")
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
LINES_SUFFIX = ".jsonl"
VIEWER_SCHEMES = ("rerun+http://", "rerun+https://")
KINDS = (
    "a video (.mp4, .avi, .mkv), a picture (.png, .jpg), JSON lines (.jsonl), masks:FOLDER, "
    "overlays:FOLDER, a recording (.mcap, .rrd), window, or null"
)


SinkErrors = Literal["stop", "continue"]
"""What an error of one sink means for the rest of a run."""


class StopRequested(Exception):
    """Raised by a sink or callback to end a pipeline as if its source had ended."""


@dataclass(frozen=True)
class SinkOptions:
    """What all sinks of a run share.

    fps: rate of the source, None if unknown; live: its frames come in their own time;
    overwrite: replace files that exist; painter: draws the overlays; protected: files and folders that
    the source is read from, which no output may replace.
    """

    fps: float | None = None
    live: bool = False
    overwrite: bool = False
    painter: OverlayPainter = field(default_factory=OverlayPainter)
    protected: tuple[Path, ...] = ()


class Sink(Closing):
    """Takes results in order, on one thread; `close` completes and checks what was written.

    on_callers_thread: whether `write` must come from the thread that runs the pipeline, as a window
    demands; all others get one of their own.
    """

    uri: str
    on_callers_thread: bool = False

    @abstractmethod
    def write(self, frame: Frame, result: Segmentation) -> None:
        """Take one result. Raises SinkError when it cannot be stored, StopRequested to end."""

    @abstractmethod
    def close(self) -> None:
        """Complete and release the output; may be called twice.

        Raises SinkError unless everything that was written is there.
        """

    @property
    def written(self) -> str | None:
        """What there is now, for the summary, for example "out.mp4 (120 frames)"; None: nothing."""
        return None


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
    | `out.mp4`, `.avi`, `.mkv` | overlay video; appears when complete, an MP4 of a live source with its first frame |
    | `out.png`, `.jpg` | overlay of the last frame |
    | `overlays:FOLDER` | one overlay JPEG per frame |
    | `masks:FOLDER` | one label map PNG per frame (uint8 or uint16 ids) and `classes.json` |
    | `out.jsonl` | one JSON line per frame, readable while it grows |
    | `out.mcap` | pictures, label maps, labels and numbers in Foxglove's schemas (extra `bags`) |
    | `out.rrd`, `rerun+http://host:9876/proxy` | the same for Rerun, as a file or to a viewer (extra `rerun`) |
    | `window` | a window; q or Esc ends the run |
    | `null` | nothing |

    Raises SinkError: unknown kind, not writable, exists (see SinkOptions.overwrite), no display.
    """
    options = options or SinkOptions()
    if uri.startswith(VIEWER_SCHEMES):
        from dedos_deploy.runtime.rerun_sink import RerunSink

        return RerunSink(uri, options)
    if uri == "null":
        return NullSink()
    if uri == "window":
        from dedos_deploy.runtime.window_sink import WindowSink

        return WindowSink(options)
    if uri.startswith(("masks:", "overlays:")):
        return _folder_sink(uri, options)
    return _file_sink(uri, options)


def _folder_sink(uri: str, options: SinkOptions) -> Sink:
    from dedos_deploy.runtime.file_sinks import MaskFolder, OverlayFolder

    kind, _, name = uri.partition(":")
    if not name:
        raise SinkError(f"output {uri!r} names no folder; write {kind}:FOLDER")
    folder = Path(name).expanduser()
    return MaskFolder(folder, options) if kind == "masks" else OverlayFolder(folder, options)


def _file_sink(uri: str, options: SinkOptions) -> Sink:
    from dedos_deploy.runtime.file_sinks import JsonLines, LastPicture
    from dedos_deploy.runtime.video_sink import GrowingVideo, VideoSink

    path = Path(uri).expanduser()
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        if suffix == ".mp4" and options.live:
            return GrowingVideo(path, options)
        return VideoSink(path, options)
    if suffix == ".mcap":
        from dedos_deploy.runtime.mcap_sink import McapSink

        return McapSink(path, options)
    if suffix == ".rrd":
        from dedos_deploy.runtime.rerun_sink import RerunSink

        return RerunSink(path, options)
    if suffix in PICTURE_SUFFIXES:
        return LastPicture(path, options)
    if suffix == LINES_SUFFIX:
        return JsonLines(path, options)
    raise SinkError(f"unknown output {redact(uri)!r}; an output is {KINDS}")
