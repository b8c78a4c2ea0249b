"""Measures an import of YouTube-8M records: records a second, and how memory goes with the clips.

    python scripts/memory_import.py --level frame --clips 8000 --workers 2 --json memory.json

Writes files in the genuine format (1024 + 128 bytes a frame, 300 frames, or as many floats a video, 1-5 labels),
imports them with the real command, and prints, as JSON, records a second of reading and of packing, and the memory
(MB) of the main process and of all its processes together, as scripts/memory.py does. The slope is what one row of
metadata a clip takes; features are held only as long as a stretch is read.
"""

from __future__ import annotations

import json
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from memory import told, watch
from yt8m_records import frame_record, video_record

from harfeat.importers.tfrecord import masked_crc
from harfeat.provenance import versions
from harvib.devices import machine

_ID = b"id------"
_VARIANTS = 20
_FRAMES = 300


def payloads(level: str, first: int, count: int) -> Iterator[bytes]:
    """Records of a few different contents, each with an id of its own."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(_VARIANTS):
        labels = sorted(rng.choice(3862, rng.integers(1, 6), replace=False).tolist())
        if level == "frame":
            rgb, audio = (rng.integers(0, 256, (_FRAMES, width), np.uint8) for width in (1024, 128))
            made.append(frame_record(_ID, labels, rgb, audio))
        else:
            made.append(video_record(_ID, labels, rng.normal(size=1024), rng.normal(size=128)))
    for number in range(first, first + count):
        yield made[number % _VARIANTS].replace(_ID, b"%08d" % number, 1)


def write(path: Path, records: Iterator[bytes]) -> None:
    """A TFRecord file, with sums by the library: those of yt8m_records would take hours for gigabytes."""
    with path.open("wb") as stream:
        for payload in records:
            length = struct.pack("<Q", len(payload))
            sums = [struct.pack("<I", masked_crc(part)) for part in (length, payload)]
            stream.write(length + sums[0] + payload + sums[1])


@click.command()
@click.option("--level", type=click.Choice(["frame", "video"]), default="frame", show_default=True)
@click.option("--clips", default=8000, show_default=True)
@click.option("--files", default=8, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--folder", is_flag=True, help="Import into a folder of shards: nothing is packed.")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(level: str, clips: int, files: int, workers: int, folder: bool, to: Path | None) -> None:
    """Write records, import them, and print how fast and with how much memory."""
    with tempfile.TemporaryDirectory(prefix="harfeat-memory-") as work:
        place = Path(work)
        share = -(-clips // files)
        for number in range(files):
            first = number * share
            write(place / f"train{number:02d}.tfrecord", payloads(level, first, min(share, clips - first)))
        size = sum(path.stat().st_size for path in place.glob("*.tfrecord"))
        out = place / ("x" if folder else "x.h5")
        command = [str(Path(sys.executable).with_name("harfeat")), "import", str(place / "train*.tfrecord")]
        command += ["--from", "yt8m", "--workers", str(workers), "--out", str(out)]
        started = time.monotonic()
        samples = watch(command, place / "log", r"([\d,]+) clips\]")
        seconds = time.monotonic() - started
    figures = {
        "level": level,
        "clips": clips,
        "megabytes": round(size / 1e6),
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "versions": versions(),
        "seconds": round(seconds, 1),
        "records_a_second": round(clips / seconds),
        "import": told(samples, clips),
        "samples": [{key: round(value, 1) for key, value in one.items()} for one in samples],
    }
    click.echo(json.dumps({key: value for key, value in figures.items() if key != "samples"}, indent=1))
    if to is not None:
        to.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
