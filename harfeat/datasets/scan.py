"""Find the video files of a folder of class folders, the same on every file system."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harfeat.errors import InputError

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"}
    | {".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"}
)


@dataclass(frozen=True)
class Video:
    """A video file below a class folder."""

    folder: str
    """Name of the class folder."""
    inside: str
    """Posix path below the class folder."""
    path: Path


def videos_by_folder(root: Path, skip: frozenset[str] = frozenset()) -> dict[str, list[Video]]:
    """Return the videos below each direct subfolder of `root`, at any depth, in the order of their names.

    Hidden entries (also AppleDouble "._x.avi"), "__MACOSX", folders named in `skip` and files without a
    video suffix are passed over. Links are followed, except where one leads back to a folder above it.

    Raises:
        InputError: `root` is no readable folder, a video lies beside the class folders instead of in
            one, or a file name is not valid UTF-8.
    """
    _check_folder(root)
    found: dict[str, list[Video]] = {}
    for entry in _entries(root, skip):
        if _is_video(entry):
            raise InputError(f"{entry.path}: this video lies in no class folder; move it into one or away")
        if _is_folder(entry):
            paths = _walk(Path(entry.path), (_identity(root),), skip)
            found[_text(entry.name)] = [_video(root, path) for path in paths]
    return {folder: sorted(videos, key=lambda video: video.inside) for folder, videos in found.items()}


def videos_below(root: Path) -> list[Path]:
    """Every video below a folder, at any depth, in the order of their names; as `videos_by_folder` finds them.

    Raises InputError: it is no readable folder.
    """
    _check_folder(root)
    return sorted(_walk(root, (), frozenset()))


def locate(root: Path, holds: Callable[[Path], bool], expected: str) -> Path:
    """Return `root`, or its only subfolder, whichever `holds` what is sought.

    Archives unpack into a folder of their own, so users often name the folder above.

    Raises:
        InputError: neither does, or several subfolders do; the text says what is `expected`.
    """
    _check_folder(root)
    if holds(root):
        return root
    below = [Path(entry.path) for entry in _entries(root, frozenset()) if _is_folder(entry)]
    holders = [folder for folder in below if holds(folder)]
    if len(holders) == 1:
        return holders[0]
    if holders:
        names = ", ".join(folder.name for folder in holders)
        raise InputError(f"{root}: expected {expected}; several subfolders have it ({names}): name one of them")
    raise InputError(f"{root}: expected {expected}; found none, nor in a subfolder")


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")


def _entries(folder: Path, skip: frozenset[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in skip]
    except OSError as error:
        raise InputError(f"{folder}: cannot read this folder ({error.strerror})") from error
    return sorted((entry for entry in kept if entry.name != "__MACOSX"), key=lambda entry: entry.name)


def _walk(folder: Path, above: tuple[tuple[int, int], ...], skip: frozenset[str]) -> Iterator[Path]:
    identity = _identity(folder)
    if identity in above:
        return
    for entry in _entries(folder, skip):
        if _is_video(entry):
            yield Path(entry.path)
        elif _is_folder(entry):
            yield from _walk(Path(entry.path), (*above, identity), skip)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # os.path.isdir, since DirEntry.is_dir raises on a link to itself.
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def _is_video(entry: os.DirEntry[str]) -> bool:
    """Tell by name: a dangling link or a folder of such a name is noticed when it is decoded, not passed over."""
    return os.path.splitext(entry.name)[1].lower() in VIDEO_SUFFIXES


def _video(root: Path, path: Path) -> Video:
    folder, *inside = path.relative_to(root).parts
    return Video(_text(folder), _text("/".join(inside)), path)


def _text(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{name!a}: this file name is not valid UTF-8; rename it") from error
    return name
