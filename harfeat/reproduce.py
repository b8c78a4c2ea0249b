"""From a cache back to what it was made with: the settings in its recipe and provenance, the videos of its clips.

The provenance may be a stranger's: every value is checked, and no path in it is ever opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harfeat.cache import Cache
from harfeat.datasets import Clip
from harfeat.errors import InputError
from harfeat.extractor import sampling_in, settings_in
from harfeat.sampling import SamplingSettings
from harfeat.settings import MOST_BATCH, ExtractSettings, dataset_of

_HELD = ("auto", "none")


def sampling_of(cache: Cache) -> SamplingSettings:
    """How the frames of an extracted cache were chosen.

    Raises InputError: imported features, or a recipe that is not one of this program.
    """
    with _named(cache):
        return sampling_in(cache.recipe)


def settings_of(
    cache: Cache, root: Path, weights: str | None = None, splits_dir: Path | None = None
) -> ExtractSettings:
    """The settings that made a cache, for the videos below `root`.

    `weights` names the file where the cache was made from one: a path that a cache states is not opened. Groups
    and test groups are left out, since they change no feature. Raises InputError.
    """
    with _named(cache):
        fields = settings_in(cache.recipe)
    told = _settings(cache)
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
        **fields,
        weights=chosen,
        splits_dir=splits_dir,
        device="cpu" if cache.provenance.get("device") == "cpu" else "auto",
        batch=batch,
    )


def videos_of(settings: ExtractSettings) -> dict[str, Clip]:
    """The clips of the data set below `settings.root`, by name. Raises InputError."""
    return {clip.name: clip for clip in dataset_of(settings).clips}


@contextmanager
def _named(cache: Cache) -> Iterator[None]:
    """What is wrong with the recipe of a cache, after the name of its file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{cache.path}: {error}") from error


def _settings(cache: Cache) -> Mapping[str, Any]:
    told = cache.provenance.get("settings")
    if not isinstance(told, Mapping):
        raise InputError(f"{cache.path}: provenance does not hold the settings of the extraction")
    return told


def _text(cache: Cache, fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if not isinstance(value, str):
        raise InputError(f"{cache.path}: provenance does not state {key}")
    return value
