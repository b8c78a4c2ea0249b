"""The panel that an overlay draws: the likeliest label, and bars for the likeliest with their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

_SMALLEST = 11
"""Pixels of the font: what can be read."""
_SHARE = 24
"""Lines of text that a picture is high."""
_BACK, _FAINT, _BAR, _TEXT = (12, 14, 20, 190), (44, 48, 58, 215), (40, 108, 225, 255), (255, 255, 255, 255)

Row = tuple[str, float]


class Panel:
    """Draws on pictures of one size, in their lower left corner: as many rows as fit into half of it."""

    def __init__(self, width: int, height: int, rows: int) -> None:
        self.size = max(_SMALLEST, height // _SHARE)
        self._line = round(1.45 * self.size)
        self._margin = round(0.5 * self.size)
        self._width = min(width, 22 * self.size)
        head = round(1.5 * self._line)
        room = (height // 2 - head - self._margin) // self._line
        self._rows = max(0, min(rows, room))
        self._head = head
        self._height = min(height, head + self._rows * self._line + self._margin)
        self._at = (0, height - self._height)
        self._font, self._big = _font(self.size), _font(round(1.3 * self.size))
        self._shown: tuple[tuple[Row, ...], np.ndarray] | None = None

    @property
    def region(self) -> tuple[slice, slice]:
        """Where it stands in a picture, rows and columns."""
        left, above = self._at
        return slice(above, above + self._height), slice(left, left + self._width)

    def draw_on(self, picture: np.ndarray, rows: Sequence[Row]) -> None:
        """Draw on a picture (H, W, 3) uint8, in place; without rows it says that nothing is known yet."""
        key = tuple(rows)
        if self._shown is None or self._shown[0] != key:
            self._shown = key, self._drawn(key)
        drawn = self._shown[1]
        below = picture[self.region]
        alpha = drawn[..., 3:].astype(np.uint16)
        mixed = (drawn[..., :3] * alpha + below * (255 - alpha) + 127) // 255
        picture[self.region] = mixed.astype(np.uint8)

    def _drawn(self, rows: tuple[Row, ...]) -> np.ndarray:
        """(h, w, 4) uint8."""
        image = Image.new("RGBA", (self._width, self._height), _BACK)
        draw = ImageDraw.Draw(image)
        inner = self._width - 2 * self._margin
        head = rows[0][0] if rows else "…"
        middle = self._margin + (self._head - self._margin) // 2
        draw.text((self._margin, middle), _fitting(draw, head, self._big, inner), _TEXT, self._big, anchor="lm")
        for number, (label, share) in enumerate(rows[: self._rows]):
            top = self._head + number * self._line
            box = (self._margin, top + 1, self._margin + inner - 1, top + self._line - 2)
            draw.rectangle(box, _FAINT)
            length = round(share * inner)
            if length:
                draw.rectangle((box[0], box[1], box[0] + length - 1, box[3]), _BAR)
            told, gap, centre = f"{100 * share:.1f}%", self.size // 3, (box[1] + box[3]) / 2
            wide = draw.textlength(told, self._font)
            draw.text((box[2] - gap, centre), told, _TEXT, self._font, anchor="rm")
            shown = _fitting(draw, label, self._font, inner - wide - 3 * gap)
            draw.text((box[0] + gap, centre), shown, _TEXT, self._font, anchor="lm")
        return np.asarray(image)


def _fitting(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or as much of it as is not wider, with an ellipsis."""
    line = " ".join(text.split())
    if draw.textlength(line, font) <= width:
        return line
    while line and draw.textlength(line + "…", font) > width:
        line = line[:-1]
    return line + "…" if line else ""


def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings it, and it has most alphabets; Pillow's own has Latin alone.
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
