"""UCF101 (Soomro, Zamir and Shah, 2012): ROOT/<Class>/v_<Class>_g<group>_c<clip>.avi.

The official splits follow a rule over the group numbers, so no list is needed; where the lists are given,
they are compared with the rule. The folder HandstandPushups holds files spelled v_HandStandPushups_...,
in the archive and in the lists alike, and some copies spell the folder so too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harfeat.datasets.official import Layout, find_clips, read_lines
from harfeat.datasets.records import Clip, Dataset, DatasetDefinition, DatasetOptions
from harfeat.datasets.scan import locate
from harfeat.datasets.ucf101_classes import CLASSES
from harfeat.errors import InputError
from harfeat.splits import TEST, TRAIN, Split, fixed_split, ucf101_splits

CLIP_COUNT = 13320
_FILE_SPELLING = {"HandstandPushups": "HandStandPushups"}
_CLIP = re.compile(r"v_([a-z]+)_g(0[1-9]|1[0-9]|2[0-5])_c([0-9]{2})\.avi", re.IGNORECASE)
_ROLE_TEXT = {TRAIN: "train", TEST: "test"}


def load(root: Path, options: DatasetOptions) -> Dataset:
    """Read UCF101 with its splits "1", "2" and "3".

    Clip names are spelled as in the official lists, however the files on disk are.

    Raises:
        InputError: files that do not fit the layout, or official lists (`options.splits_dir`) that are
            incomplete or disagree with the rule on a clip that is present.
    """
    found = find_clips(root, LAYOUT, CLIP_COUNT)
    splits = official_splits(found.clips, options.splits_dir)
    return Dataset("ucf101", found.root, CLASSES, found.clips, splits, found.notes)


def official_splits(clips: Sequence[Clip], splits_dir: Path | None) -> tuple[Split, ...]:
    """The splits "1", "2" and "3" by their rule, compared with the lists where given; raises InputError."""
    groups = [clip.group for clip in clips]
    splits = ucf101_splits([int(group[-2:]) for group in groups], groups)
    if splits_dir is None:
        return splits
    lists = locate(
        splits_dir,
        lambda folder: (folder / "testlist01.txt").is_file(),
        "the official UCF101 lists testlist01.txt ... trainlist03.txt",
    )
    return tuple(_checked(split, clips, lists) for split in splits)


def _parse(class_name: str, inside: str) -> tuple[str, str] | None:
    matched = _CLIP.fullmatch(inside)
    if matched is None or matched[1].lower() != class_name.lower():
        return None
    group = f"v_{_FILE_SPELLING.get(class_name, class_name)}_g{matched[2]}"
    return f"{class_name}/{group}_c{matched[3]}.avi", group


def _checked(split: Split, clips: Sequence[Clip], lists: Path) -> Split:
    """Return the split, its rule saying that the lists agree; raises InputError where they do not."""
    listed: dict[str, int] = {}
    for role, file_name in ((TRAIN, f"trainlist0{split.name}.txt"), (TEST, f"testlist0{split.name}.txt")):
        for line in read_lines(lists / file_name):
            name = line.split()[0]
            if name in listed:
                raise InputError(f"{lists / file_name}: {name} is listed twice in split {split.name}")
            listed[name] = role
    for clip, role in zip(clips, split.roles, strict=True):
        if clip.name not in listed:
            raise InputError(f"{clip.path}: the lists of split {split.name} in {lists} do not have {clip.name}")
        if listed[clip.name] != role:
            raise InputError(
                f"{lists}: {clip.name} is in the {_ROLE_TEXT[listed[clip.name]]} list of split {split.name}, "
                f"by the official rule it should {_ROLE_TEXT[int(role)]}; are these the official lists?"
            )
    rule = f"{split.rule}; compared with the lists given, equal"
    return fixed_split(split.name, split.roles.tolist(), [clip.group for clip in clips], rule)


LAYOUT = Layout(
    dataset="ucf101",
    classes=CLASSES,
    pattern="Archery/v_Archery_g01_c01.avi",
    parse=_parse,
    aliases={"HandStandPushups": "HandstandPushups"},
)

DEFINITION = DatasetDefinition(
    name="ucf101",
    description="UCF101: ROOT/<Class>/v_<Class>_gGG_cCC.avi, official splits by rule (--splits checks it)",
    class_count=len(CLASSES),
    clip_count=CLIP_COUNT,
    split_names=("1", "2", "3"),
    load=load,
    official_splits=official_splits,
    classes=CLASSES,
    parse=_parse,
    uses=frozenset({"splits_dir"}),
)
