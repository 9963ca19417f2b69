"""A window with the overlay."""

from __future__ import annotations

import os
import sys

from dedos_deploy.errors import SinkError
from dedos_deploy.runtime.frame import Frame
from dedos_deploy.runtime.segmentation import Segmentation
from dedos_deploy.runtime.sinks.contract import Sink, SinkOptions, StopRequested

TITLE = "DEDOS Deploy"
QUIT_KEYS = (ord("q"), 27)


class WindowSink(Sink):
    """Shows every overlay; q, Esc or closing the window ends the run."""

    uri = "window"
    on_callers_thread = True

    def __init__(self, options: SinkOptions) -> None:
        self._options = options
        self._is_open = False
        # Asked first because OpenCV's Qt aborts the whole process when there is no display.
        linux = sys.platform.startswith("linux")
        if linux and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise SinkError(
                "a window needs a display and this machine has none (DISPLAY is not set); write a "
                "video instead, with --output overlay.mp4"
            )
        import cv2

        try:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error as error:
            raise SinkError(
                "this OpenCV cannot open windows, perhaps it is opencv-python-headless; install "
                "opencv-python, or write a video with --output overlay.mp4"
            ) from error
        self._is_open = True

    def write(self, frame: Frame, result: Segmentation) -> None:
        import cv2

        cv2.imshow(TITLE, self._options.painter.paint(frame.frame_bgr, result))
        key = cv2.waitKey(1) & 0xFF
        if key in QUIT_KEYS or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
            raise StopRequested

    def close(self) -> None:
        if self._is_open:
            import cv2

            self._is_open = False
            cv2.destroyWindow(TITLE)
