"""Small made-up videos for scripts that need many: 64x48 pixels, MPEG-1, each with bytes of its own."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

CLASSES = ("biking", "diving", "golf", "swing")


def make_clip(path: Path, number: int, frames: int) -> None:
    """Encode a drifting pattern that depends on `number`."""
    y, x = np.mgrid[0:48, 0:64]
    with av.open(str(path), "w", format="mpeg") as container:
        stream = container.add_stream("mpeg1video", rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 64, 48, "yuv420p", 1
        for k in range(frames):
            step = 11 * number + 5 * k
            picture = np.stack([3 * x + step, 2 * y + 2 * x - step, 4 * y + 3 * step], axis=-1) % 256
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


def make_clips(root: Path, count: int, frames: int = 6, distinct: int = 1000) -> None:
    """`count` clips in class folders; those after the first `distinct` are copies with a few bytes more."""
    made: list[bytes] = []
    for number in range(count):
        path = root / CLASSES[number % len(CLASSES)] / f"v{number:05d}.mpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < distinct:
            make_clip(path, number, frames)
            made.append(path.read_bytes())
        else:
            # Behind the end of the last picture; another hash, the same pictures.
            path.write_bytes(made[number % distinct] + number.to_bytes(4, "big"))
