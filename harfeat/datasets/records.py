"""What a data set is to the rest of harfeat: clips with labels and groups, and splits over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harfeat.splits import Split


@dataclass(frozen=True)
class Clip:
    """One labelled video file."""

    name: str
    """Posix path below the root, unique; for official sets as in their lists."""
    path: Path
    label: int
    """Index into the data set's classes."""
    group: str
    """The source video or subject that clips share, unique over the data set; "" where unknown."""


@dataclass(frozen=True)
class DatasetOptions:
    """What a user may say about a data set beside where it lies."""

    splits_dir: Path | None = None
    """Folder of official lists (--splits)."""
    group_pattern: str | None = None
    """Regular expression that finds the group in a clip's name (--group-pattern)."""
    test_groups: tuple[str, ...] = ()
    """Groups of the split "listed" (--test-groups)."""
    split_seed: int = 0


@dataclass(frozen=True)
class Dataset:
    """The clips found below one root."""

    name: str
    root: Path
    """The folder that holds the class folders."""
    classes: tuple[str, ...]
    """Official sets: all official classes in official order, also when clips of some are absent."""
    clips: tuple[Clip, ...]
    """Sorted by name."""
    splits: tuple[Split, ...]
    notes: tuple[str, ...] = ()
    """What a user should know (parts that are missing), one line each; callers print them."""


@dataclass(frozen=True)
class DatasetDefinition:
    """A kind of data set that harfeat can read."""

    name: str
    description: str
    """One line: what it is and how it lies on disk."""
    class_count: int | None
    """Classes of the official archive; None where the user decides."""
    clip_count: int | None
    """Clips of the official archive; None where the user decides."""
    split_names: tuple[str, ...]
    load: Callable[[Path, DatasetOptions], Dataset]
    """Read a root; raises InputError."""
    uses: frozenset[str] = frozenset()
    """Which of splits_dir, group_pattern and test_groups apply."""
    official_splits: Callable[[Sequence[Clip], Path | None], tuple[Split, ...]] | None = None
    """The official splits of clips, from the folder of lists where given; None where there are none."""
    classes: tuple[str, ...] = ()
    """Official sets: the class folders that `parse` knows."""
    parse: Callable[[str, str], tuple[str, str] | None] | None = None
    """(class, posix path below its folder) to (clip name, group), or None for a foreign name; official sets."""
