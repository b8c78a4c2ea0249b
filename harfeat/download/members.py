"""What an archive holds, checked before a byte of it is unpacked: nothing outside, no links, bounded sizes."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import rarfile

from harfeat.download.rar_program import lend_to_rarfile
from harfeat.errors import InputError

_MOST = 500_000
_FORBIDDEN = set("\\:*<>|")
"""Characters that mean something to some system; the names in HMDB51 have others, such as & ; # and brackets."""


@dataclass(frozen=True)
class Member:
    """A file in an archive: posix path, size in bytes, CRC-32 (None: not told)."""

    name: str
    bytes: int
    crc: int | None


def members_of(archive: Path, limit: int) -> tuple[Member, ...]:
    """The files in a .zip or .rar, by the archive's own table.

    Raises:
        InputError: not such an archive, damaged, encrypted, in volumes, or one that holds what no data set does:
            paths out of the folder, links, more than `limit` bytes, a name twice.
    """
    try:
        found = _of_zip(archive) if archive.suffix == ".zip" else _of_rar(archive)
    except InputError:
        raise
    except (zipfile.BadZipFile, rarfile.Error, ValueError, EOFError) as error:
        raise InputError(
            f"{archive}: cannot be read as an archive ({error or type(error).__name__}): remove it and try again"
        ) from error
    except OSError as error:
        raise InputError(f"{archive}: cannot be read ({error.strerror or error})") from error
    _check(archive, found, limit)
    return tuple(found)


def _of_zip(archive: Path) -> list[Member]:
    found = []
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or info.flag_bits & 1:
                raise _refusal(archive, info.filename, "is a link, a device or encrypted")
            _check_name(archive, info.filename.rstrip("/"))
            if not info.is_dir():
                found.append(Member(info.filename, info.file_size, info.CRC))
    return found


def _of_rar(archive: Path) -> list[Member]:
    found = []
    lend_to_rarfile()
    with rarfile.RarFile(archive, errors="strict") as opened:
        if opened.needs_password() or len(opened.volumelist()) > 1:
            raise InputError(f"{archive}: encrypted, or one of several volumes: not what the authors published")
        for info in opened.infolist():
            if info.is_symlink() or info.file_redir or not (info.is_file() or info.is_dir()):
                raise _refusal(archive, info.filename, "is a link or a device")
            _check_name(archive, info.filename.rstrip("/"))
            if info.is_file():
                found.append(Member(info.filename, info.file_size, info.CRC))
    return found


def _check_name(archive: Path, name: str) -> None:
    parts = name.split("/")
    if not all(part not in ("", ".", "..") for part in parts) or _FORBIDDEN & set(name) or not name.isprintable():
        raise _refusal(archive, name, "is no path inside of a folder")


def _check(archive: Path, found: Sequence[Member], limit: int) -> None:
    names = [member.name for member in found]
    if len(set(names)) != len(names):
        raise _refusal(archive, next(name for name in names if names.count(name) > 1), "is there twice")
    if not found:
        raise InputError(f"{archive}: holds no file: remove it and try again")
    total = sum(member.bytes for member in found)
    if len(found) > _MOST or total > limit:
        raise InputError(
            f"{archive}: unpacks to {len(found):,} files of {total:,} bytes, "
            "more than the data set can be: not unpacked"
        )


def _refusal(archive: Path, name: str, what: str) -> InputError:
    return InputError(f"{archive}: {name!a} {what}: not what the authors published, not unpacked")
