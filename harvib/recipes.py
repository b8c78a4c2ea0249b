"""How the features of a model were made: what its file tells, or of an older file the config.json beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harfeat.cache import fingerprint_of
from harvib.errors import InputError
from harvib.rundir import read_json
from harvib.weights import ModelCard

FRAMES = "pixels"
"""What stands for the backbone in the recipe of a cache that holds resized frames in place of features."""


def recipe_of(folder: Path, card: ModelCard) -> dict[str, Any]:
    """The recipe of the features of a model whose file stands in `folder`; empty where nothing there tells it.

    Raises InputError where config.json tells how other features are made.
    """
    if card.recipe:
        return dict(card.recipe)
    path = folder / "config.json"
    told = read_json(path).get("recipe") if path.is_file() else None
    if not isinstance(told, dict):
        return {}
    if fingerprint_of(told) != card.fingerprint:
        raise InputError(f"{path}: its recipe is not that of the model's features: file altered")
    return told


def of_frames(recipe: Mapping[str, Any]) -> bool:
    """Whether the features are frames, resized, so that the run may have trained a backbone of its own."""
    return recipe.get("model") == FRAMES
