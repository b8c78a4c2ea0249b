"""Videos, a cache of them and models on that cache, for tests of predictions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner, Result
from PIL import Image
from videos import Recipe, numbered_frame, write_video

from harfeat.cache import Cache, open_cache
from harfeat.pipeline import extract
from harfeat.sampling import SamplingSettings
from harfeat.settings import ExtractSettings
from harvib.cli import main
from harvib.models import ModelSpec, SequenceClassifier
from harvib.weights import card_of, save_model

CLASSES = ("jump", "run", "sit")
WIDTH, HEIGHT = 64, 48


def pictures_of(label: int, clip: int, frames: int) -> list[np.ndarray]:
    """Numbered frames, tinted by class."""
    found = []
    for index in range(frames):
        picture = numbered_frame(5 * clip + index, HEIGHT, WIDTH)
        picture[HEIGHT // 2 :, :, label] = 230
        found.append(picture)
    return found


def make_videos(root: Path, clips: int = 2, frames: Sequence[int] = (9, 14), codec: str = "mjpeg") -> Path:
    """Class folders with this many videos each, whose lengths go round."""
    formats = {"mjpeg": "yuvj420p"}
    recipe = Recipe("clip", ".avi", codec, width=WIDTH, height=HEIGHT, pix_fmt=formats.get(codec, "yuv420p"))
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for clip in range(clips):
            path = root / name / f"g{clip}_{name}.avi"
            write_video(path, pictures_of(label, clip, frames[(clip + label) % len(frames)]), recipe)
    return root


def make_cache(videos: Path, out: Path, **changes: Any) -> Path:
    """By a tiny network with its drawn weights, which needs no file."""
    asked: dict[str, Any] = {"model": "test_vit", "weights": "none", "device": "cpu", "workers": 0}
    asked |= {"sampling": SamplingSettings(frames=4), "group_pattern": "(g[0-9]+)_"} | changes
    extract(ExtractSettings("folder", videos, out, **asked), progress=False)
    return out


def make_model(cache: Path, out: Path, cell: str = "lstm", seed: int = 0, **changes: Any) -> Path:
    """A model file with weights drawn at random, for the features of a cache."""
    torch.manual_seed(seed)
    with open_cache(cache) as opened:
        stream = opened.main_stream
        features = opened.dim(stream)
        fields: dict[str, Any] = {"shape": ((6,),), "readout": "mean"} | changes
        spec = ModelSpec(cell, "plain", features, features, classes=len(opened.classes), **fields)
        model = SequenceClassifier(spec)
        model.standardize_by(*statistics(opened, stream))
        save_model(out, model, card_of(opened, stream))
    return out


def statistics(cache: Cache, stream: str) -> tuple[torch.Tensor, torch.Tensor]:
    """So that features of different videos differ for a model with random weights."""
    rows = torch.from_numpy(cache.read_all(stream).astype(np.float32))
    rows = rows / 255 if cache.dtype(stream) == np.uint8 else rows
    return rows.mean(0), rows.std(0)


def jpeg(picture: np.ndarray, **options: Any) -> bytes:
    """By Pillow."""
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", **{"quality": 90} | options)
    return data.getvalue()


def predict(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    """`harvib predict` on the CPU without decoding processes."""
    where = ["predict", "--device", "cpu", "--workers", "0", *map(str, arguments)]
    return CliRunner().invoke(main, where, input=stdin)
