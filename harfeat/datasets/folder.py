"""Any folder of class folders: ROOT/<class>/.../<clip>, with groups found by a regular expression."""

from __future__ import annotations

import re
from pathlib import Path

from harfeat.datasets.official import order_clips
from harfeat.datasets.records import Clip, Dataset, DatasetDefinition, DatasetOptions
from harfeat.datasets.scan import videos_by_folder
from harfeat.errors import InputError
from harfeat.splits import default_splits


def load(root: Path, options: DatasetOptions) -> Dataset:
    """Read class folders directly below `root`, with videos at any depth in them.

    The classes are the folders that hold a video, in the order of their names. The group is what
    `options.group_pattern` finds in a clip's name: its first capture group, or the whole match if it has
    none; the same text is the same group in whatever class. Without a pattern clips have no group.
    Splits: `harfeat.splits.default_splits`.

    Raises:
        InputError: no video, a video outside a class folder, a pattern that is invalid or does not
            match every clip, or a bad list of test groups.
    """
    pattern = _compile(options.group_pattern)
    folders = videos_by_folder(root)
    classes = tuple(sorted(folder for folder, videos in folders.items() if videos))
    if not classes:
        raise InputError(f"{root}: no video found; expected ROOT/<class>/<clip>.avi (or .mp4, .mpg, ...)")
    notes = [f"folder {folder} holds no video and is no class" for folder in folders if folder not in classes]
    if len(classes) == 1:
        notes.append(f"one class only ({classes[0]}): is {root} the folder right above the class folders?")
    clips = []
    for label, folder in enumerate(classes):
        for video in folders[folder]:
            name = f"{folder}/{video.inside}"
            clips.append(Clip(name, video.path, label, _group(pattern, name)))
    ordered = order_clips(clips)
    splits = default_splits(
        [clip.label for clip in ordered],
        [clip.group for clip in ordered],
        seed=options.split_seed,
        test_groups=options.test_groups,
    )
    return Dataset("folder", root, classes, ordered, splits, tuple(notes))


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        return re.compile(pattern)
    except re.error as error:
        raise InputError(f"--group-pattern {pattern!r} is no regular expression: {error}") from error


def _group(pattern: re.Pattern[str] | None, name: str) -> str:
    if pattern is None:
        return ""
    matched = pattern.search(name)
    group = matched[1 if pattern.groups else 0] if matched else None
    if not group:
        raise InputError(f"--group-pattern {pattern.pattern!r} finds no group in the clip name {name!r}")
    return group


DEFINITION = DatasetDefinition(
    name="folder",
    description="your own clips: ROOT/<class>/.../<clip>, groups by --group-pattern, 60:40 splits by seed",
    class_count=None,
    clip_count=None,
    split_names=("random", "group", "listed"),
    load=load,
    uses=frozenset({"group_pattern", "test_groups"}),
)
