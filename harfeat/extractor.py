"""What made the features of a cache, opened again from its recipe: for videos and frames that no cache holds.

    for found in extractor_of(card.recipe).videos([Path("new.avi")]):
        ...

A model that was trained on a cache knows nothing but such features; its file carries the recipe. Decoder,
arithmetic and Pillow may be of other versions here, which moves a feature a little at most and is told in `notes`;
another network, other weights, pictures or frames are refused. The recipe may be a stranger's: no path and no code
comes from it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harfeat.cache import ClipFeatures, ClipRow, Failure
from harfeat.cache.fingerprint import differing_fields
from harfeat.datasets import Clip
from harfeat.datasets.scan import videos_below
from harfeat.decode import ClipFrames, DecodeError, decode_pictures
from harfeat.decode.linear import pictures, to_rgb
from harfeat.decode.probe import MAX_PIXELS, check_size
from harfeat.errors import InputError
from harfeat.extraction import FrameModel, backbone_of, outcomes, recipe_of
from harfeat.hashing import sha256_of_file
from harfeat.preprocess import TransformConfig, prepare
from harfeat.sampling import FLOW, SamplingError, SamplingSettings, plan
from harfeat.settings import PIXELS, ExtractSettings
from harfeat.weights import identity, load_backbone

__all__ = [
    "MAX_PIXELS",
    "MAY_DIFFER",
    "ClipFrames",
    "DecodeError",
    "ExtractedClip",
    "Extractor",
    "Failure",
    "InputError",
    "SamplingSettings",
    "TransformConfig",
    "check_size",
    "extractor_of",
    "network_of",
    "pictures",
    "prepare",
    "raw_frames",
    "sampling_in",
    "settings_in",
    "to_rgb",
    "videos_below",
]

MAY_DIFFER = ("decoder", "precision", "batch_norm", "pillow", "flow.opencv")
"""Fields of a recipe with whose other values features come out alike, if not bit for bit."""


@dataclass(frozen=True, eq=False)
class ExtractedClip:
    """The main stream of one video: features (T, D) as the cache would store them, frame_index (T,) of the source.

    `fps` is NaN where the container states none; `damaged`: FFmpeg met errors, its frames are those that the
    command line gives.
    """

    features: np.ndarray
    frame_index: np.ndarray
    source_frames: int
    fps: float
    damaged: bool


@dataclass(frozen=True, eq=False)
class Extractor:
    """See the module. `notes` are lines for the user: what differs here from where the cache was made."""

    recipe: Mapping[str, Any]
    model: FrameModel
    notes: tuple[str, ...]
    _settings: ExtractSettings

    @property
    def sampling(self) -> SamplingSettings:
        """Which frames `videos` takes: the rule of the cache's main stream."""
        return self._settings.sampling

    @property
    def dim(self) -> int:
        """Values D in a row of features."""
        return self.model.dim

    def videos(
        self, paths: Sequence[Path], workers: int = -1, timeout: float = 120.0
    ) -> Generator[ExtractedClip | Failure, None, None]:
        """What each video gives, in order, or why it gives nothing; no video ends the run.

        They are decoded in `workers` processes that may be killed (-1: one a core; 0: in this one, without that
        protection), each within `timeout` seconds. Raises InputError where no process starts.
        """
        clips = [Clip(str(number), path, 0, "") for number, path in enumerate(paths)]
        settings = replace(self._settings, workers=workers, clip_timeout=timeout)
        # A failure comes at once, a clip when its batch is full.
        ready: dict[str, ExtractedClip | Failure] = {}
        waiting = iter(clips)
        clip = next(waiting, None)
        with closing(outcomes(clips, self.model, settings)) as results:
            for result in results:
                if isinstance(result, Failure):
                    ready[result.name] = Failure(str(paths[int(result.name)]), result.reason)
                else:
                    ready[result[0].name] = self._extracted(*result)
                while clip is not None and clip.name in ready:
                    yield ready.pop(clip.name)
                    clip = next(waiting, None)

    def _extracted(self, row: ClipRow, streams: Mapping[str, ClipFeatures]) -> ExtractedClip:
        stored = streams[self.sampling.stream]
        return ExtractedClip(stored.features, stored.frame_index, row.source_frames, row.fps, row.damaged == 1)

    def frames(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """Features (T, D) of raw frames, each (H, W, 3) uint8 RGB, as the cache would store them.

        Raises InputError where a feature is not one of a single frame.
        """
        if self.sampling.stream == FLOW:
            raise InputError("optical flow is of two frames of a video file: no single frame has it")
        pixels = np.concatenate([prepare(frame[None], self.model.transform) for frame in frames])
        found = self.model.start(pixels)
        values = found if isinstance(found, np.ndarray) else found.result()
        return values.astype(self._settings.stored_dtype)


def extractor_of(
    recipe: Mapping[str, Any], weights: str | None = None, device: str = "auto", batch: int = 32
) -> Extractor:
    """The extractor of a cache with this recipe.

    Args:
        recipe: `Cache.recipe`, or a model file's.
        weights: as `harfeat extract` takes them; a recipe has their hash alone. None: what timm downloads.
        device: as there.
        batch: frames at once; 1 for frames that come one by one.

    Raises:
        InputError: the features were not extracted from videos, or something of the recipe cannot be had here.
    """
    fields = settings_in(recipe)
    sampling = fields["sampling"].main
    chosen = _weights(recipe, weights)
    settings = ExtractSettings(
        "folder", Path(), Path(), **fields | {"sampling": sampling}, weights=chosen, device=device, batch=batch
    )
    model = backbone_of(settings)
    ours, theirs = recipe_of(settings, model), dict(recipe)
    # Views are for training, and change no other stream.
    theirs["sampling"] = {key: value for key, value in recipe["sampling"].items() if key != "views"}
    differing = differing_fields(theirs, ours)
    if grave := [line for line in differing if not line.startswith(MAY_DIFFER)]:
        raise InputError(f"such features cannot be made here: {'; '.join(grave)}")
    return Extractor(recipe, model, tuple(f"the features' {line} here" for line in differing), settings)


def network_of(recipe: Mapping[str, Any], weights: str | None = None) -> Any:
    """The timm network of a recipe at its pooled features, float32, in evaluation mode, with the very weights.

    Raises InputError where the recipe has none, or where they cannot be had.
    """
    fields = settings_in(recipe)
    if fields["model"] == PIXELS:
        raise InputError("its features are the frames themselves: there is no network")
    return _checked(recipe, weights)[0]


def raw_frames(path: Path, sampling: SamplingSettings) -> ClipFrames:
    """The frames (T, H, W, 3) that a rule's main stream takes of a video, decoded in this process.

    FFmpeg can hang on a hostile file. Raises DecodeError.
    """
    chosen = np.zeros(0, np.int64)

    def choose(count: int, fps: float) -> np.ndarray:
        nonlocal chosen
        chosen = plan(sampling.main, count, fps, digest)[0].indices
        return chosen

    try:
        digest = sha256_of_file(path)
        found = decode_pictures(path, choose, lambda _, frame: frame)
    except SamplingError as error:
        raise DecodeError(str(error)) from error
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror or error}") from error
    frames = np.stack([found.kept[index] for index in chosen.tolist()])
    return ClipFrames(frames, chosen, found.source_frames, found.fps, found.decoder, found.damaged)


def settings_in(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `ExtractSettings` that a recipe decides. Raises InputError where it states none."""
    sampling, model, dtype = sampling_in(recipe), _text(recipe, "model"), _text(recipe, "dtype")
    if model == PIXELS:
        return {"model": model, "dtype": dtype, "size": _pixel_size(recipe), "sampling": sampling}
    precision = _text(recipe, "precision")
    if precision == "auto":
        raise InputError("its recipe states no precision: file altered")
    return {"model": model, "dtype": dtype, "precision": precision, "sampling": sampling}


def sampling_in(recipe: Mapping[str, Any]) -> SamplingSettings:
    """How the frames were chosen. Raises InputError: imported features, or no recipe of this program."""
    if recipe.get("kind") != "video":
        raise InputError(
            f"its features were not extracted from videos by harfeat (kind {recipe.get('kind')!r}), so they "
            "cannot be made of one here"
        )
    return SamplingSettings.of_recipe(recipe.get("sampling"))


def _weights(recipe: Mapping[str, Any], weights: str | None) -> str:
    """What to load, after a look at whether these are the weights."""
    return "none" if recipe["model"] == PIXELS else _checked(recipe, weights)[1]


def _checked(recipe: Mapping[str, Any], weights: str | None) -> tuple[Any, str]:
    model, wanted = _text(recipe, "model"), _text(recipe, "weights")
    if weights is None:
        # The random draw of tests needs no download.
        network, _ = load_backbone(model, "none")
        if identity(network) == wanted:
            return network, "none"
    told = weights or "auto"
    try:
        network, source = load_backbone(model, told)
    except InputError as error:
        if weights is not None:
            raise
        raise InputError(f"{error}; the features are of weights with the hash {wanted[:16]}") from error
    if source.tensors_sha256 != wanted:
        raise InputError(
            f"--weights {told}: another backbone than that of the features: its weights have the hash "
            f"{source.tensors_sha256[:16]}, not {wanted[:16]}: name the file that the cache was extracted with"
        )
    return network, told


def _pixel_size(recipe: Mapping[str, Any]) -> str:
    size = recipe.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int for side in size):
        raise InputError("its recipe states no size of the pixels: file altered")
    return "{}x{}".format(*size)


def _text(recipe: Mapping[str, Any], key: str) -> str:
    value = recipe.get(key)
    if not isinstance(value, str):
        raise InputError(f"its recipe does not state {key}: file altered")
    return value
