"""HMDB51 (Kuehne et al., 2011): ROOT/<class>/<movie>_<class>_<attributes>_<number>.avi.

The official splits follow no rule, so their lists (test_train_splits.rar) have to be given: one file a
class and split, <class>_test_split<k>.txt, with lines "<file name> <role>".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harfeat.datasets.hmdb51_classes import CLASSES
from harfeat.datasets.official import Layout, find_clips, read_lines
from harfeat.datasets.records import Clip, Dataset, DatasetDefinition, DatasetOptions
from harfeat.datasets.scan import locate
from harfeat.errors import InputError
from harfeat.splits import TEST, TRAIN, UNUSED, Split, fixed_split

CLIP_COUNT = 6766
_SPLIT_NAMES = ("1", "2", "3")
_ROLES = {"0": UNUSED, "1": TRAIN, "2": TEST}
# Visible body part, camera motion, number of people, camera side, quality, running number.
_ATTRIBUTES = r"[a-z]_(?:cm|nm)_np[0-9]+_(?:fr|ba|le|ri)_(?:bad|med|goo)_[0-9]+"


def load(root: Path, options: DatasetOptions) -> Dataset:
    """Read HMDB51 with its splits "1", "2" and "3" from the official lists in `options.splits_dir`.

    A group is a movie's name and the class. Listed clips that are absent are counted in a note.

    Raises:
        InputError: no lists, incomplete or malformed ones, files that do not fit the layout, or a clip
            that the lists do not have.
    """
    _require_lists(options.splits_dir)
    found = find_clips(root, LAYOUT, CLIP_COUNT)
    splits = official_splits(found.clips, options.splits_dir)
    return Dataset("hmdb51", found.root, CLASSES, found.clips, splits, found.notes)


def official_splits(clips: Sequence[Clip], splits_dir: Path | None) -> tuple[Split, ...]:
    """The splits "1", "2" and "3" from the lists in `splits_dir`; raises InputError."""
    lists = locate(
        _require_lists(splits_dir),
        lambda folder: any((folder / f"{name}_test_split1.txt").is_file() for name in CLASSES),
        "the official HMDB51 lists brush_hair_test_split1.txt ... wave_test_split3.txt",
    )
    groups = [clip.group for clip in clips]
    splits: list[Split] = []
    for name in _SPLIT_NAMES:
        listed = _read_roles(lists, name)
        for clip in clips:
            if clip.name not in listed:
                raise InputError(
                    f"{clip.path}: the lists of split {name} in {lists} do not have this clip; move it away"
                )
        roles = [listed[clip.name] for clip in clips]
        rule = f"official split {name}, read from its lists (70 train, 30 test a class, the rest unused)"
        splits.append(fixed_split(name, roles, groups, rule))
    return tuple(splits)


def _require_lists(splits_dir: Path | None) -> Path:
    if splits_dir is None:
        raise InputError(
            "hmdb51 needs its official lists: download test_train_splits.rar from the HMDB51 page, "
            "unpack it, and pass --splits DIR"
        )
    return splits_dir


def _parse(class_name: str, inside: str) -> tuple[str, str] | None:
    matched = re.fullmatch(rf"([^/]+_{class_name})_{_ATTRIBUTES}(\.avi)", inside, re.IGNORECASE)
    if matched is None:
        return None
    return f"{class_name}/{inside[: matched.start(2)]}.avi", matched[1]


def _read_roles(lists: Path, split: str) -> dict[str, int]:
    """Return the role of every listed clip of one split, by clip name; raises InputError."""
    roles: dict[str, int] = {}
    for class_name in CLASSES:
        path = lists / f"{class_name}_test_split{split}.txt"
        for line in read_lines(path):
            file_name, _, role = line.rpartition(" ")
            if not file_name.strip() or role not in _ROLES:
                raise InputError(f"{path}: expected '<file name> <0, 1 or 2>', found {line!r}")
            name = f"{class_name}/{file_name.strip()}"
            if name in roles:
                raise InputError(f"{path}: {file_name.strip()} is listed twice")
            roles[name] = _ROLES[role]
    return roles


LAYOUT = Layout(
    dataset="hmdb51",
    classes=CLASSES,
    pattern="wave/<movie>_wave_f_nm_np1_fr_med_0.avi",
    parse=_parse,
    aliases={},
)

DEFINITION = DatasetDefinition(
    name="hmdb51",
    description="HMDB51: ROOT/<class>/<movie>_<class>_<attributes>.avi, official splits from --splits DIR",
    class_count=len(CLASSES),
    clip_count=CLIP_COUNT,
    split_names=_SPLIT_NAMES,
    load=load,
    official_splits=official_splits,
    classes=CLASSES,
    parse=_parse,
    uses=frozenset({"splits_dir"}),
)
