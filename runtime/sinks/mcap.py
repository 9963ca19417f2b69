"""Results as an MCAP recording, in Foxglove's schemas or as ROS 2 has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dedos_deploy.errors import SinkError, require
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink, SinkOptions, checked_time
from dedos_deploy.runtime.sinks.mcap_foxglove import FoxgloveProfile
from dedos_deploy.runtime.sinks.mcap_profiles import Profile
from dedos_deploy.runtime.sinks.mcap_ros2 import Ros2Profile
from dedos_deploy.runtime.sinks.outputs import GrowingFile, writing
from dedos_deploy.runtime.uri import settings_of

CHUNK_BYTES = 256 * 2**10
"""What a kill may cost: messages are put together, compressed and written in chunks of this size."""
PROFILES: dict[str, type[FoxgloveProfile] | type[Ros2Profile]] = {
    "foxglove": FoxgloveProfile,
    "ros2": Ros2Profile,
}
TRANSPORTS = ("compressed", "compressedDepth")
"""Last parts of topics that tell how the pictures of the part before are packed."""


class McapSink(Sink):
    """A message on each topic per result, at the time of the frame's capture.

    | topic | `profile=foxglove` (default) | `profile=ros2` |
    |---|---|---|
    | /image | foxglove.CompressedImage: the frame, JPEG | sensor_msgs/CompressedImage, /image/compressed |
    | /overlay | the same of the frame tinted by class | the same, /overlay/compressed |
    | /labels | foxglove.RawImage, mono8 or mono16: class ids | sensor_msgs/Image |
    | /annotations | foxglove.ImageAnnotations: class names in their colours | |
    | /label_info | | vision_msgs/LabelInfo, at the first result and after each change of words |
    | /result | JSON: keys of JsonLines, `classes` (name of every id), `none_id` | the same as std_msgs/String |

    Topics of a recording's results stand where its pictures do: those of `/front/image_raw` begin with
    `/front`. They have the camera's `frame_id`, that of other sources is the source's address. The
    file has its name from the first result on and grows; readers recover it when its writer was killed.
    """

    def __init__(self, path: Path, options: SinkOptions, *, profile: Profile) -> None:
        writer = require("mcap.writer", extra="bags", purpose=f"writing {path.name}")
        self.uri = str(path)
        self._path = path
        self._options = options
        self._profile = profile
        self._count = 0
        self._file = GrowingFile(path, overwrite=options.overwrite, protected=options.protected)
        with writing(path):
            self._writer = writer.Writer(self._file, chunk_size=CHUNK_BYTES)
            self._writer.start(profile=profile.name, library="dedos-deploy")
        self._channels: dict[str, int] = {}
        self._closed = False

    @property
    def written(self) -> str | None:
        return f"{self.uri} ({self._count} frames)" if self._count else None

    def write(self, frame: Frame, result: Segmentation) -> None:
        clock_ns = checked_time(self.uri, frame.captured_ns, self._profile.seconds)
        # Of a camera it is found anew at each look; all messages must have the same.
        frame = replace(frame, clock_ns=clock_ns)
        overlay = self._options.painter.paint(frame.frame_bgr, result)
        contents = self._profile.contents(frame, result, overlay)
        self._file.appear()
        with writing(self._path):
            if not self._channels:
                self._channels = self._register(topic_prefix(frame.topic))
            for topic, content in contents.items():
                self._writer.add_message(
                    self._channels[topic], clock_ns, content, clock_ns, sequence=self._count
                )
            self._file.flush()
        self._count += 1

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with writing(self._path):
            try:
                self._writer.finish()
            finally:
                self._file.close()

    def _register(self, prefix: str) -> dict[str, int]:
        schemas: dict[str, int] = {}
        channels: dict[str, int] = {}
        for topic, kind in self._profile.kinds().items():
            if kind.schema not in schemas:
                schemas[kind.schema] = self._writer.register_schema(
                    kind.schema, kind.schema_encoding, kind.definition
                )
            channels[topic] = self._writer.register_channel(
                prefix + topic, kind.encoding, schemas[kind.schema], kind.metadata
            )
        return channels


def open_mcap(path: Path, options: SinkOptions, *, uri: str) -> McapSink:
    """Return the sink at `path`, with the settings in `uri`: `out.mcap` or `out.mcap?profile=ros2`.

    Raises SinkError.
    """
    settings = settings_of(
        uri.partition("?")[2],
        ("profile",),
        what=f"output {uri!r}",
        takes="an MCAP takes profile, as in out.mcap?profile=ros2",
        refusal=SinkError,
    )
    name = settings.get("profile", "foxglove")
    if name not in PROFILES:
        raise SinkError(
            f"output {uri!r}: the profile of an MCAP is {' or '.join(PROFILES)}, not {name[:40]!r}"
        )
    return McapSink(path, options, profile=PROFILES[name](f"writing {path.name}"))


def topic_prefix(topic: str) -> str:
    """Return what results of an image topic begin with: where the topic is.

    >>> topic_prefix("/front/image_raw/compressed"), topic_prefix("/image"), topic_prefix("")
    ('/front', '', '')
    """
    base, _, last = topic.rpartition("/")
    return topic_prefix(base) if last in TRANSPORTS else base
