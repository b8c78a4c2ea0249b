"""UCF11, the YouTube Action data set (Liu, Luo and Shah, 2009).

ROOT/<class>/v_<prefix>_<group>/v_<prefix>_<group>_<clip>.mpg, or .avi in the first edition; the prefix is
not always the class (basketball/v_shooting_01). No official split exists.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from harfeat.datasets.official import Layout, check_distinct, find_clips
from harfeat.datasets.records import Clip, Dataset, DatasetDefinition, DatasetOptions
from harfeat.errors import InputError
from harfeat.splits import default_splits

CLASSES = (
    "basketball",
    "biking",
    "diving",
    "golf_swing",
    "horse_riding",
    "soccer_juggling",
    "swing",
    "tennis_swing",
    "trampoline_jumping",
    "volleyball_spiking",
    "walking",
)
"""The folder names in alphabetical order; the authors number none."""

CLIP_COUNT = 1600
_CLIP = re.compile(r"(v_[^/]+_[0-9]{2})/\1_[0-9]{2}\.(mpg|avi)", re.IGNORECASE)


def load(root: Path, options: DatasetOptions) -> Dataset:
    """Read UCF11 with the seeded splits "random" and "group"; raises InputError."""
    found = find_clips(root, LAYOUT, CLIP_COUNT)
    check_distinct(found.clips, [str(PurePosixPath(clip.name).with_suffix("")) for clip in found.clips])
    _check_group_folders(found.clips)
    splits = default_splits(
        [clip.label for clip in found.clips], [clip.group for clip in found.clips], seed=options.split_seed
    )
    return Dataset("ucf11", found.root, CLASSES, found.clips, splits, found.notes)


def _parse(class_name: str, inside: str) -> tuple[str, str] | None:
    matched = _CLIP.fullmatch(inside)
    return None if matched is None else (f"{class_name}/{inside}", matched[1])


def _check_group_folders(clips: tuple[Clip, ...]) -> None:
    """Raise InputError where classes share a group folder's name, which would merge their groups."""
    home: dict[str, Clip] = {}
    for clip in clips:
        other = home.setdefault(clip.group, clip)
        if other.label != clip.label:
            raise InputError(
                f"{clip.path.parent} and {other.path.parent}: "
                "in ucf11 a group folder's name belongs to one class; rename one of them"
            )


LAYOUT = Layout(
    dataset="ucf11",
    classes=CLASSES,
    pattern="biking/v_biking_01/v_biking_01_01.mpg",
    parse=_parse,
    aliases={},
    skip=frozenset({"Annotation"}),
)

DEFINITION = DatasetDefinition(
    name="ucf11",
    description="UCF11 (YouTube Action): ROOT/<class>/v_xxx_GG/v_xxx_GG_CC.mpg, 60:40 splits by seed",
    class_count=len(CLASSES),
    clip_count=CLIP_COUNT,
    split_names=("random", "group"),
    load=load,
)
