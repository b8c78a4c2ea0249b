"""How features of a kind are made again: the `harfeat extract` command of a recipe, for cards."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from harfeat.errors import InputError
from harfeat.sampling import SamplingSettings

_NAMED = {"rule": "sampling"}


def extract_command(recipe: Mapping[str, Any]) -> str | None:
    """The command, an option a line, with VIDEOS for the folder of class folders; None of imported features.

    Weights are known by their hash alone, which the recipe states: whoever has them in a file adds --weights. The
    recipe may be a stranger's.
    """
    from harfeat.extractor import settings_in  # noqa: PLC0415 - timm takes a second to import

    try:
        told = settings_in(recipe)
    except InputError:
        return None
    sampling = told.pop("sampling")
    assert isinstance(sampling, SamplingSettings)
    options = {"dataset": "folder", "root": "VIDEOS", "out": "features.h5", **told}
    options |= {
        _NAMED.get(item.name, item.name): getattr(sampling, item.name)
        for item in fields(sampling)
        if getattr(sampling, item.name) != item.default
    }
    return " \\\n  ".join(["harfeat extract", *(_option(name, value) for name, value in options.items())])


def _option(name: str, value: Any) -> str:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return shlex.join([f"--{option}", str(value)])
