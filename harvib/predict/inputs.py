"""What the user named to be predicted: video files and folders of them, or one live source."""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harvib.errors import InputError
from harvib.predict.results import Failed


@dataclass(frozen=True)
class Camera:
    """A camera by its number, or by the device file that it is."""

    device: str

    @property
    def name(self) -> str:
        """As the user sees it."""
        return f"camera {self.device}"


@dataclass(frozen=True)
class Pipe:
    """Standard input: JPEG pictures one after another."""

    name: str = "-"


Live = Camera | Pipe


@dataclass(frozen=True)
class Files:
    """Video files in the order in which they were named, and in their place what is none.

    `notes` tell what folders hold.
    """

    videos: tuple[Path | Failed, ...]
    notes: tuple[str, ...] = ()


def inputs_of(arguments: Sequence[str]) -> Files | Live:
    """What these words name: `-`, a camera's number (where there is no such path), files, folders.

    Raises InputError where a live source stands beside others, or no word names anything.
    """
    if not arguments:
        raise InputError("name a video, a folder, a camera by its number, or - for standard input")
    if "" in arguments:
        raise InputError("an empty name: name a video, a folder, a camera by its number, or - for standard input")
    live = [found for argument in arguments if (found := _live(argument)) is not None]
    if live and len(arguments) > 1:
        raise InputError(f"{live[0].name}: a live source stands alone; name it in a command of its own")
    if live:
        return live[0]
    videos: list[Path | Failed] = []
    notes: list[str] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            below = _videos_in(path)
            if not isinstance(below, Failed):
                notes.append(f"{argument}: {len(below):,} videos")
            videos += [below] if isinstance(below, Failed) else below
        else:
            # Whatever else it may be, decoding tells.
            videos.append(path if _exists(path) else Failed(argument, "no such file or folder"))
    failed = [video for video in videos if isinstance(video, Failed)]
    if len(failed) == len(videos):
        more = f", and {len(failed) - 1} more like it" if len(failed) > 1 else ""
        raise InputError(f"{failed[0].path}: {failed[0].reason}{more}")
    return Files(tuple(videos), tuple(notes))


def _live(argument: str) -> Live | None:
    if argument == "-":
        return Pipe()
    path = Path(argument)
    if _exists(path):
        return Camera(argument) if stat.S_ISCHR(path.stat().st_mode) else None
    return Camera(argument) if re.fullmatch(r"[0-9]{1,4}", argument) else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        # A name that no file can have.
        return False


def _videos_in(folder: Path) -> list[Path] | Failed:
    from harfeat.extractor import InputError as ExtractorError  # noqa: PLC0415 - timm takes a second to import
    from harfeat.extractor import videos_below  # noqa: PLC0415

    try:
        return videos_below(folder) or Failed(str(folder), "no video files in it")
    except ExtractorError as error:
        return Failed(str(folder), str(error).removeprefix(f"{folder}: "))
