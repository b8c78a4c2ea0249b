"""The data sets that harfeat reads; a new one is a module here and a line in REGISTRY."""

from __future__ import annotations

from pathlib import Path

from harfeat.datasets import folder, hmdb51, ucf11, ucf101
from harfeat.datasets.records import Clip, Dataset, DatasetDefinition, DatasetOptions
from harfeat.errors import InputError

__all__ = ["REGISTRY", "Clip", "Dataset", "DatasetDefinition", "DatasetOptions", "load_dataset"]

REGISTRY: dict[str, DatasetDefinition] = {
    "ucf11": ucf11.DEFINITION,
    "hmdb51": hmdb51.DEFINITION,
    "ucf101": ucf101.DEFINITION,
    "folder": folder.DEFINITION,
}

_OPTION_NAMES = {
    "splits_dir": "--splits",
    "group_pattern": "--group-pattern",
    "test_groups": "--test-groups",
}


def load_dataset(name: str, root: Path, options: DatasetOptions | None = None) -> Dataset:
    """Read the data set `name` below `root`.

    Raises:
        InputError: an unknown name, an option that this data set does not use, or whatever its loader
            finds wrong with the files.
    """
    options = options or DatasetOptions()
    if name not in REGISTRY:
        raise InputError(f"unknown data set {name!r}; choose from {', '.join(REGISTRY)}")
    definition = REGISTRY[name]
    for field, flag in _OPTION_NAMES.items():
        if getattr(options, field) not in (None, ()) and field not in definition.uses:
            takers = ", ".join(other.name for other in REGISTRY.values() if field in other.uses)
            raise InputError(f"{flag} does not apply to {name} (only to {takers}); leave it out")
    return definition.load(root, options)
