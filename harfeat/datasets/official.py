"""What the official data sets have in common: known classes, strict names, lists of clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harfeat.datasets.records import Clip
from harfeat.datasets.scan import locate, videos_by_folder
from harfeat.errors import InputError


@dataclass(frozen=True)
class Layout:
    """How an official archive lies on disk."""

    dataset: str
    classes: tuple[str, ...]
    pattern: str
    """The path of a clip below the root, as errors show it."""
    parse: Callable[[str, str], tuple[str, str] | None]
    """(class, posix path below its folder) to (clip name, group), or None for a foreign name."""
    aliases: Mapping[str, str]
    """Other names of class folders, to the official ones."""
    skip: frozenset[str] = frozenset()
    """Folders that never hold clips."""


@dataclass(frozen=True)
class Found:
    """The clips of an official set that are present."""

    root: Path
    clips: tuple[Clip, ...]
    notes: tuple[str, ...]


def find_clips(root: Path, layout: Layout, clip_count: int) -> Found:
    """Read the clips below `root`, or below its one subfolder that has the class folders.

    A part of the archive will do; a note then says how much of its `clip_count` clips there is.

    Raises:
        InputError: no class folder, no video, a video in a foreign folder or with a foreign name, or
            one clip twice.
    """
    folders = {name: name for name in layout.classes} | dict(layout.aliases)
    expected = f"{layout.dataset} class folders with clips like {layout.pattern}"
    folder = locate(root, lambda path: any((path / name).is_dir() for name in folders), expected)
    notes = [] if folder == root else [f"class folders read from {folder}"]
    label = {name: index for index, name in enumerate(layout.classes)}
    clips: list[Clip] = []
    for name, videos in videos_by_folder(folder, layout.skip).items():
        if name not in folders:
            if videos:
                raise InputError(
                    f"{videos[0].path}: {name!r} is no class of {layout.dataset}; "
                    "move the folder away, or read all of it with --dataset folder"
                )
            continue
        if not videos:
            notes.append(f"class folder {name} holds no video")
        for video in videos:
            parsed = layout.parse(folders[name], video.inside)
            if parsed is None:
                raise InputError(
                    f"{video.path}: not named as {layout.dataset} names a clip of {folders[name]} "
                    f"({layout.pattern}); move it away, or read the folder with --dataset folder"
                )
            clips.append(Clip(parsed[0], video.path, label[folders[name]], parsed[1]))
    if not clips:
        raise InputError(f"{folder}: the class folders hold no video; expected {layout.pattern}")
    present = len({clip.label for clip in clips})
    if (present, len(clips)) != (len(layout.classes), clip_count):
        notes.append(f"{present} of {len(layout.classes)} classes, {len(clips)} of {clip_count} clips present")
    return Found(folder, order_clips(clips), tuple(notes))


def order_clips(clips: Iterable[Clip]) -> tuple[Clip, ...]:
    """Sort clips by name.

    Raises:
        InputError: two files are the same clip.
    """
    ordered = sorted(clips, key=lambda clip: (clip.name, clip.path))
    check_distinct(ordered, [clip.name for clip in ordered])
    return tuple(ordered)


def check_distinct(clips: Sequence[Clip], keys: Sequence[str]) -> None:
    """Raise InputError, naming both files, where two clips have the same key."""
    first: dict[str, Clip] = {}
    for clip, key in zip(clips, keys, strict=True):
        other = first.setdefault(key, clip)
        if other is not clip:
            raise InputError(f"{other.path} and {clip.path} are the same clip; remove one of them")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a list that are not blank, without surrounding space, whatever the line ends.

    Raises:
        InputError: the file is absent, cannot be read, or is no UTF-8 text.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot read this official list ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this list is no UTF-8 text") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
