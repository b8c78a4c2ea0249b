"""What is told beside the recipe: versions of the libraries and the machine. It does not enter the fingerprint."""

from __future__ import annotations

import platform
from importlib.metadata import version

_LIBRARIES = ("harfeat", "av", "decord", "h5py", "numpy", "pillow", "timm", "torch")


def versions() -> dict[str, str]:
    """Installed version of everything that touches a feature."""
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}


def machine() -> dict[str, str]:
    """The kind of machine, not its name."""
    return {"system": platform.system(), "processor": platform.machine()}
