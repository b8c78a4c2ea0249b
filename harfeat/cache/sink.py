"""The file that HDF5 writes to, so that a full disk ends in an error and not in a crash.

Where a write fails, the HDF5 library keeps objects that it cannot flush any more, complains about each, and
crashes the process at its end (HDF5 2.0, h5py 3.16: a segmentation fault in 5 of 5 runs against a size limit).
"""

from __future__ import annotations

import io
from pathlib import Path


class Sink(io.RawIOBase):
    """A file opened for writing and reading that keeps its first error instead of raising it.

    From then on what is written is kept in memory, so that HDF5 finds what it wrote; `check` raises the error.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._error: OSError | None = None
        self._lost: list[tuple[int, bytes]] = []

    def check(self) -> None:
        """Raise the OSError that has happened, if any."""
        if self._error is not None:
            raise self._error

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        """Write all of `data`."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest and self._error is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._error = error
        if rest:
            self._lost.append((self._file.tell(), bytes(rest)))
            self._file.seek(len(rest), io.SEEK_CUR)
        return size

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read back what was written."""
        view = memoryview(buffer).cast("B")
        start = self._file.tell()
        read = self._file.readinto(view)
        for offset, data in self._lost:
            first, last = max(offset, start), min(offset + len(data), start + len(view))
            if first < last:
                view[first - start : last - start] = data[first - offset : last - offset]
                read = max(read, last - start)
        self._file.seek(start + read)
        return read

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file."""
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move, also beyond the end."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Where it stands."""
        return self._file.tell()

    def readable(self) -> bool:
        """Yes."""
        return True

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
