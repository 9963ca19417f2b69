"""Real frames from whatever the user has: a picture, a folder of them, or a video."""

from __future__ import annotations

import glob
import os
import random
from pathlib import Path

from dedos_deploy.errors import BadInputError, SourceError
from dedos_deploy.pictures import IMAGE_SUFFIXES, Picture, open_picture
from dedos_deploy.runtime.sources.images import find_images
from dedos_deploy.runtime.sources.opening import count_frames, frames_at


def sample_frames(source: str | os.PathLike[str], *, count: int, seed: int = 0) -> list[Picture]:
    """Return up to `count` frames of `source`, uint8 [H, W, 3] BGR, the same ones every time.

    source: a picture; a folder, searched with its sub-folders; or a video file. A folder gives a
    random choice drawn from `seed`, in the order of the names; a video gives frames spread evenly
    over its length. Fewer frames come back only when there are no more.

    Raises BadInputError when the source does not exist, or holds a picture that cannot be read, or
    nothing to read at all.
    """
    if count < 1:
        raise BadInputError(f"the number of frames must be at least 1, not {count}")
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, count, seed)
    if not path.is_file():
        raise BadInputError(
            f"{str(path)!r} does not exist; give a picture, a folder of pictures or a video file"
        )
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return [open_picture(path)]
    return _from_video(path, count)


def _from_folder(folder: Path, count: int, seed: int) -> list[Picture]:
    try:
        paths = find_images(Path(glob.escape(str(folder))) / "**" / "*", IMAGE_SUFFIXES)
    except SourceError as error:
        raise BadInputError(
            f"folder {str(folder)!r} has no picture ({', '.join(IMAGE_SUFFIXES)}); "
            f"give a folder of pictures or a video file"
        ) from error
    chosen = sorted(random.Random(seed).sample(range(len(paths)), min(count, len(paths))))
    return [open_picture(paths[index]) for index in chosen]


def _from_video(path: Path, count: int) -> list[Picture]:
    announced = 0

    def middles(total: int) -> set[int]:
        """Return the middles of `count` equal parts."""
        nonlocal announced
        announced = total
        parts = min(count, total)
        return {(2 * part + 1) * total // (2 * parts) for part in range(parts)}

    try:
        frames = [frame.frame_bgr for frame in frames_at(path, middles)]
        if len(frames) < min(count, announced):
            # A recording that broke off: its header promises more, so count what is there.
            counted = count_frames(path)
            frames = [frame.frame_bgr for frame in frames_at(path, lambda _: middles(counted))]
    except SourceError as error:
        raise BadInputError(
            f"{str(path)!r} is not a readable picture or video; "
            f"give a picture, a folder of pictures or a video file"
        ) from error
    return frames
