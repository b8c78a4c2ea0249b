"""`--stream flow`: the optical flow from each sampled frame to the next one, as a picture for the backbone.

The flow is OpenCV's DIS (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016) in its preset
`medium`, between the grey forms of two neighbouring frames at their own size: frame t and t + 1, and for the last
frame of a clip the one before it and itself. So u and v are pixels of the source video per frame.

As in TSN (Wang et al., ECCV 2016, arXiv:1608.00859) they are clipped to [-20, 20] and scaled to [0, 255], so that
no motion is 128. Networks want three channels: u, v and the speed sqrt(u^2 + v^2), clipped to 20 and scaled so
that no motion is 0. From there on the picture is treated as a frame: resized, cropped and normalised as the
model's frames are. A mirrored picture is mirrored left to right, and its u turns round: 255 - u.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harfeat.decode.records import DecodeError
from harfeat.errors import InputError
from harfeat.preprocess import TransformConfig, prepare
from harfeat.sampling import later_frames

CLIP = 20.0
"""Pixels a frame; what is faster counts as this fast."""
_CHANNELS = ("u", "v", "magnitude")
_LEAST = (8, 12)  # the shorter and the longer side, for DIS


def flow_recipe() -> dict[str, Any]:
    """Everything here that changes a value. Raises InputError where OpenCV is not installed."""
    cv2 = _opencv()
    return {
        "method": "DIS",
        "preset": "medium",
        "pair": "next frame",
        "clip": CLIP,
        "channels": list(_CHANNELS),
        "opencv": str(cv2.__version__),
    }


class FlowTaker:
    """What a decoding process takes of a clip: prepared flow pictures, by the later frame of their pair.

    Frames come one by one in ascending order, and only the last one is held: memory does not grow with the clip.
    """

    def __init__(self, transform: TransformConfig) -> None:
        self._transform = transform
        cv2 = _opencv()
        cv2.setNumThreads(1)  # the other cores have clips of their own
        self._method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._later: frozenset[int] = frozenset()
        self._before: tuple[int, np.ndarray] | None = None

    def keys(self, indices: np.ndarray, source_frames: int) -> np.ndarray:
        """(T,) under which frames what is kept for each sampled frame is found."""
        return later_frames(indices, source_frames)

    def frames(self, indices: np.ndarray, source_frames: int) -> np.ndarray:
        """All frames to decode for these sampled ones."""
        later = self.keys(indices, source_frames)
        self._later = frozenset(later.tolist())
        return np.union1d(later - 1, later)

    def keep(self, index: int, frame: np.ndarray) -> np.ndarray | None:
        """(3, h, w) uint8 of the pair that ends here; None where none does.

        Raises DecodeError: frames too small.
        """
        cv2 = _opencv()
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        before, self._before = self._before, (index, grey)
        if index not in self._later or before is None or before[0] != index - 1:
            return None
        try:
            flow = self._method.calc(before[1], grey, None)
        except cv2.error as error:
            raise DecodeError(f"no optical flow of it: {_reason(grey.shape, str(error.err))}") from error
        return prepare(flow_picture(flow)[None], self._transform)[0]

    def mirrored(self, pixels: np.ndarray) -> np.ndarray:
        """(T, 3, h, w) left to right: what moved to the right moves to the left."""
        turned = pixels[..., ::-1].copy()
        turned[:, 0] = 255 - turned[:, 0]
        return turned


def flow_picture(flow: np.ndarray) -> np.ndarray:
    """(H, W, 2) flow in pixels a frame to (H, W, 3) uint8: u, v and speed, each clipped and scaled."""
    speed = np.hypot(flow[..., 0], flow[..., 1])
    scaled = [(flow[..., channel] + CLIP) / (2 * CLIP) for channel in (0, 1)] + [speed / CLIP]
    picture: np.ndarray = np.rint(255 * np.stack(scaled, axis=-1).clip(0, 1)).astype(np.uint8)
    return picture


def _reason(shape: tuple[int, int], text: str) -> str:
    height, width = shape
    if any(side < least for side, least in zip(sorted(shape), _LEAST, strict=True)):
        return f"its frames of {width}x{height} are too small, it takes {_LEAST[1]}x{_LEAST[0]}"
    return " ".join(text.split())


def _opencv() -> Any:
    """OpenCV, imported here, late: nothing else needs it."""
    try:
        import cv2  # noqa: PLC0415
    except ImportError as error:
        raise InputError("--stream flow: OpenCV is not installed: pip install 'harfeat[flow]'") from error
    return cv2
