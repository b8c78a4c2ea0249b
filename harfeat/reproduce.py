"""From a cache back to what it was made with: the settings in its provenance, and the videos of its clips.

The provenance may be a stranger's: every value is checked, and no path in it is ever opened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harfeat.cache import Cache
from harfeat.datasets import Clip
from harfeat.errors import InputError
from harfeat.sampling import SamplingSettings
from harfeat.settings import MOST_BATCH, PIXELS, ExtractSettings, dataset_of

_HELD = ("auto", "none")


def sampling_of(cache: Cache) -> SamplingSettings:
    """How the frames of an extracted cache were chosen.

    Raises InputError: imported features, or a provenance that does not fit the recipe.
    """
    if cache.recipe.get("kind") != "video":
        raise InputError(
            f"{cache.path}: its features were not extracted from videos by harfeat (kind "
            f"{cache.recipe.get('kind')!r}), so there is nothing to decode again"
        )
    told = _settings(cache).get("sampling")
    defaults = dataclasses.asdict(SamplingSettings())
    if not isinstance(told, Mapping) or not all(
        key in defaults and type(value) is type(defaults[key]) for key, value in told.items()
    ):
        raise InputError(f"{cache.path}: provenance does not hold the settings of the sampling")
    sampling = SamplingSettings(**told)
    if sampling.recipe() != cache.recipe.get("sampling"):
        raise InputError(f"{cache.path}: the sampling in provenance is not that of the recipe: file altered")
    return sampling


def settings_of(
    cache: Cache, root: Path, weights: str | None = None, splits_dir: Path | None = None
) -> ExtractSettings:
    """The settings that made a cache, for the videos below `root`.

    `weights` names the file where the cache was made from one: a path that a cache states is not opened. Groups
    and test groups are left out, since they change no feature. Raises InputError.
    """
    sampling, told = sampling_of(cache), _settings(cache)
    model, dtype = (_text(cache, cache.recipe, key) for key in ("model", "dtype"))
    precision = "auto" if model == PIXELS else _text(cache, cache.recipe, "precision")
    if precision == "auto" and model != PIXELS:
        raise InputError(f"{cache.path}: its recipe states no precision: file altered")
    batch = told.get("batch")
    if type(batch) is not int or not 1 <= batch <= MOST_BATCH:
        raise InputError(f"{cache.path}: provenance does not state the batch")
    chosen = weights or _text(cache, told, "weights")
    if weights is None and chosen not in _HELD:
        raise InputError(
            f"{cache.path}: was made with the weights file {Path(chosen).name}; name it with --weights FILE"
        )
    return ExtractSettings(
        _text(cache, told, "dataset"),
        root,
        cache.path,
        model=model,
        size=_pixel_size(cache) if model == PIXELS else "",
        weights=chosen,
        sampling=sampling,
        splits_dir=splits_dir,
        dtype=dtype,
        device="cpu" if cache.provenance.get("device") == "cpu" else "auto",
        precision=precision,
        batch=batch,
    )


def videos_of(settings: ExtractSettings) -> dict[str, Clip]:
    """The clips of the data set below `settings.root`, by name. Raises InputError."""
    return {clip.name: clip for clip in dataset_of(settings).clips}


def _settings(cache: Cache) -> Mapping[str, Any]:
    told = cache.provenance.get("settings")
    if not isinstance(told, Mapping):
        raise InputError(f"{cache.path}: provenance does not hold the settings of the extraction")
    return told


def _pixel_size(cache: Cache) -> str:
    size = cache.recipe.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int for side in size):
        raise InputError(f"{cache.path}: its recipe states no size of the pixels: file altered")
    return "{}x{}".format(*size)


def _text(cache: Cache, fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise InputError(f"{cache.path}: provenance does not state {key}")
    return value
