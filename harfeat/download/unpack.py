"""Unpacking .zip and .rar, and checking every file that came out against the archive's own checksums."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from harfeat.download.members import Member, members_of
from harfeat.download.rar_program import rar_command
from harfeat.errors import InputError

_BLOCK = 1 << 20
_SPARE = 64 << 20


def unpack(archive: Path, folder: Path, limit: int) -> int:
    """Unpack into the new folder `folder`, and return the number of files. At most `limit` bytes come out.

    Raises:
        InputError: what `members_of` refuses, a disk without room, or files that do not match their checksums.
            Nothing is left in `folder` then.
    """
    members = members_of(archive, limit)
    try:
        folder.mkdir(parents=True)
        needed, free = sum(member.bytes for member in members) + _SPARE, shutil.disk_usage(folder).free
        if needed > free:
            raise InputError(f"{folder.parent}: unpacking needs {needed:,} bytes, {free:,} are free: make room")
        if archive.suffix == ".zip":
            _unpack_zip(archive, folder, members)
        else:
            _unpack_rar(archive, folder, max(member.bytes for member in members))
        _compare(archive, folder, members)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"{folder}: cannot be written ({error.strerror or error})") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return len(members)


def _unpack_zip(archive: Path, folder: Path, members: Iterable[Member]) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in members:
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member.name) as source, target.open("xb") as stream:
                    left = member.bytes
                    while block := source.read(min(_BLOCK, left + 1)):
                        left -= len(block)
                        if left < 0:
                            raise InputError(f"{archive}: {member.name!a} is larger than the archive says")
                        stream.write(block)
    # NotImplementedError is what zipfile raises where damage has made a compression method that there is not.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{archive}: damaged ({error}): remove it and try again") from error


def _unpack_rar(archive: Path, folder: Path, largest: int) -> None:
    command = [
        part.replace("{archive}", str(archive.absolute())).replace("{folder}", str(folder.absolute()))
        for part in rar_command()
    ]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder
    ) as process:
        if sys.platform == "linux":
            _bound_files(process.pid, largest)
        try:
            told, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        lines = [line.strip() for line in told.decode(errors="replace").splitlines() if line.strip()]
        reason = next(
            (line for line in lines if "error" in line.lower()), lines[-1] if lines else "no reason told"
        )
        raise InputError(
            f"{archive}: {Path(command[0]).name} cannot unpack it ({reason}): remove it and try again, "
            "or with the program of: pip install 'harfeat[rar]'"
        )


def _bound_files(process: int, largest: int) -> None:
    """No file may grow beyond the largest that the archive's table tells, whatever its data say."""
    import resource  # noqa: PLC0415  (not on every system)

    with suppress(ProcessLookupError):  # it may have ended already
        resource.prlimit(process, resource.RLIMIT_FSIZE, (largest + _BLOCK, largest + _BLOCK))


def _compare(archive: Path, folder: Path, members: Iterable[Member]) -> None:
    """Raise InputError unless the folder holds exactly the files of the table, byte for byte by their CRC-32."""
    expected = {member.name: member for member in members}
    for path in folder.rglob("*"):
        mode, name = path.lstat().st_mode, path.relative_to(folder).as_posix()
        if stat.S_ISDIR(mode):
            continue
        member = expected.pop(name, None)
        if member is None or not stat.S_ISREG(mode):
            raise InputError(f"{archive}: {name!a} came out, which its table does not tell: not used")
        if path.stat().st_size != member.bytes or member.crc not in (None, _crc(path)):
            raise InputError(f"{archive}: {name!a} came out damaged: remove the archive and try again")
    if expected:
        raise InputError(f"{archive}: {next(iter(expected))!a} did not come out: remove the archive and try again")


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value
