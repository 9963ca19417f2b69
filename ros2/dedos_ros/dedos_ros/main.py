"""`ros2 run dedos_ros segmentation`: the entry, which imports nothing before Ctrl-C can end it."""

from __future__ import annotations

import os
import signal
import sys


def main(argv: list[str] | None = None) -> int:
    """Run until interrupted; 2 for arguments that cannot be, or if it was to start on its own and could not."""
    # ROS takes seconds to import, and what an interrupt becomes in the middle of that is any library's choice.
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    from dedos_ros import process

    signal.signal(signal.SIGINT, before)
    return process.run(argv)


if __name__ == "__main__":
    sys.exit(main())
