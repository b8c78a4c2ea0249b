"""Opening a file in a process of its own first, which may hang or crash where HDF5 does.

For files that are not in the plain form of caches (`harfeat.cache.plain`): repacked, compressed, in HDF5's old
format, or forged. What one process opened and read to its end, this one can too: the library does the same again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harfeat.cache.schema import CacheError

SECONDS = 60.0
BYTES_A_SECOND = 20e6
"""Time that a file may take: so many seconds, and as long again as reading (and unpacking) it at this rate."""

_MEMORY = 4 << 30
_passed: set[tuple[int, int, int, int]] = set()


def require_harmless(path: Path) -> None:
    """Open a file, and read all that HDF5 has to read, in a process of its own.

    Raises CacheError where that process hangs, crashes, or takes too much memory. Whether the file is a sound
    cache is not asked. A file that has passed is not tried again as long as it is the same.
    """
    status = path.stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity in _passed:
        return
    seconds = SECONDS + status.st_size / BYTES_A_SECOND
    program = f"import sys; sys.path[:] = {sys.path!r}; from harfeat.cache.guard import main; main(sys.argv[1])"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CacheError(
            f"{path}: hangs the HDF5 library (tried for {seconds:.0f} s): damaged or forged, do not trust it"
        ) from error
    except OSError as error:
        raise CacheError(f"{path}: no process could be started to try it in ({error.strerror})") from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = f"exit code {done.returncode}{': ' + lines[-1] if lines else ''}"
        raise CacheError(f"{path}: crashes the HDF5 library ({reason}): damaged or forged, do not trust it")
    _passed.add(identity)


def main(path: str) -> None:
    """What the process does."""
    from harfeat.cache.single import FileCache  # noqa: PLC0415  it imports this module

    _limit_memory(Path(path).stat().st_size)
    for head_only in (False, True):
        try:
            with FileCache(Path(path), head_only, guarded=False) as cache:
                for stream in cache.streams:
                    # What lies in one piece is read past HDF5.
                    clips = 0 if cache.is_in_one_piece(stream) else len(cache.clips)
                    for clip in range(clips):
                        cache.read(clip, stream)
        except CacheError:
            continue


def _limit_memory(size: int) -> None:
    if sys.platform != "win32":
        import resource  # noqa: PLC0415  there is none on Windows

        _, highest = resource.getrlimit(resource.RLIMIT_AS)
        wanted = _MEMORY + size
        limit = wanted if highest == resource.RLIM_INFINITY else min(wanted, highest)
        resource.setrlimit(resource.RLIMIT_AS, (limit, highest))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
