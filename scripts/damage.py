"""Overwrites bytes of H.264 files and compares each frame that harfeat gives with the linear decode.

    python scripts/damage.py --files 6000 --out results/damage.json

One byte a file: anywhere, in the header of a picture or of the sequence, or in the container's own tables. Every
clip counts as one too long to keep, for which decord may be asked; all its frames are, and some alone. Prints a
tally as JSON: by the place of the damage, who gave the frames (`refused`: nobody could), and how many clips came
out `wrong`, which are kept beside OUT; then the same of decord without harfeat, with as many frames as it counts.
Exit code 1 where harfeat gave a wrong frame.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import av
import click
import numpy as np
import torch  # noqa: F401  before decord, which can hang otherwise
from av.video.frame import PictureType

from harfeat.decode import DecodeError, decode_clip, linear, policy
from harfeat.decode.pool import each_of
from harvib.devices import machine

HEADER = slice(5, 24)
"""Bytes of a packet that hold the slice header: after the length and the kind of the NAL unit."""

ALONE = 4
"""Frames of a clip that are asked for alone."""

CLIPS = (
    ("mp4", {"g": "12", "bf": "2"}),
    ("mkv", {"g": "12", "bf": "2"}),
    ("mov", {"g": "12", "bf": "0"}),
    ("mp4", {"g": "250", "bf": "3", "x264-params": "b-pyramid=normal"}),
    ("mp4", {"g": "12", "bf": "2", "x264-params": "slices=4"}),
    ("mkv", {"g": "250", "bf": "3", "forced-idr": "1"}),
)

FORCED = (1, 13, 16, 30, 31)
"""Key frames that end a group early, in the last of the clips."""


def make_clip(path: Path, options: dict[str, str]) -> None:
    """48 pictures of 160x120 that change everywhere from one to the next."""
    y, x = np.mgrid[0:120, 0:160]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"sc_threshold": "0"} | options)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = 160, 120, "yuv420p", 1
        for k in range(48):
            picture = np.stack([3 * x + 7 * k, 2 * y + 2 * x - 5 * k, 4 * y + 11 * k], axis=-1) % 256
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            frame.pict_type = PictureType.I if "forced-idr" in options and k in FORCED else PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def places(path: Path) -> dict[str, np.ndarray]:
    """Offsets of the bytes of each kind."""
    size = path.stat().st_size
    with av.open(str(path)) as container:
        sequence = container.streams.video[0].codec_context.extradata or b""
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos is not None]
    coded = np.zeros(size, bool)
    headers = [np.arange(at, at + length)[HEADER] for at, length in packets]
    for at, length in packets:
        coded[at : at + length] = True
    return {
        "anywhere": np.arange(48, size),
        "pictures": np.concatenate(headers),
        "sequence": path.read_bytes().index(sequence) + np.arange(len(sequence)),
        "container": np.flatnonzero(~coded)[48:],
    }


def digest(frames: np.ndarray) -> str:
    """The same for the same frames in the same number."""
    return f"{frames.shape} {hashlib.sha256(frames.tobytes()).hexdigest()}"


def by_harfeat(path: Path, random: np.random.Generator) -> tuple[str, str]:
    """Who gave the frames, or that they were not the linear decode's; the digest of the latter."""
    try:
        clip = decode_clip(path, np.arange)
    except (DecodeError, MemoryError):  # the second where a damaged size asks for more than there is
        return "refused", ""
    expected = np.stack(list(linear.pictures(path)))
    right = np.array_equal(clip.frames, expected)
    if clip.decoder == "decord":
        for index in random.choice(clip.source_frames, ALONE).tolist():
            alone = decode_clip(path, lambda _, index=index: np.array([index]))  # type: ignore[misc]
            right = right and np.array_equal(alone.frames[0], expected[index])
    return clip.decoder if right else "wrong", digest(expected)


def by_decord(path: str) -> str:
    """The digest of all frames by decord itself, as many as it counts; for a process that may crash."""
    import decord  # noqa: PLC0415  after torch, or it can hang

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(path, num_threads=1)
        return digest(reader.get_batch(range(len(reader))).asnumpy())
    except (decord.DECORDError, RuntimeError, IndexError) as error:
        raise DecodeError("refused") from error


@click.command()
@click.option("--files", type=click.IntRange(1), default=6_000, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default="results/damage.json")
def main(files: int, seed: int, out: Path) -> None:
    """Damage H.264 files and compare what comes out with the linear decode."""
    av.logging.set_level(None)
    linear.KEEP_BYTES, policy.SEEK_SHARE = 0, 1e-9  # type: ignore[assignment]
    random = np.random.default_rng(seed)
    tally: dict[str, Counter[str]] = defaultdict(Counter)
    plain: dict[str, Counter[str]] = defaultdict(Counter)
    readable: list[tuple[Path, str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        with click.progressbar(range(files), file=sys.stderr) as numbers:
            for number in numbers:
                if number % 60 == 0:
                    suffix, options = CLIPS[number // 60 % len(CLIPS)]
                    whole_path = Path(folder) / f"whole.{suffix}"
                    make_clip(whole_path, options)
                    whole, where = whole_path.read_bytes(), places(whole_path)
                place = list(where)[number % 4]
                data = bytearray(whole)
                data[random.choice(where[place])] = random.integers(256)
                path = Path(folder) / f"wrong-{seed}-{number}.{suffix}"
                path.write_bytes(data)
                done, expected = by_harfeat(path, random)
                tally[place][done] += 1
                if expected:
                    readable.append((path, place, expected))
                if done == "wrong":
                    shutil.copy(path, out.parent)
        found = each_of(by_decord, [(str(path),) for path, _, _ in readable], 1, 60)
        with click.progressbar(readable, file=sys.stderr) as clips:
            for (_, place, expected), frames in zip(clips, found, strict=True):
                said = str(frames) if isinstance(frames, DecodeError) else ("wrong", "right")[frames == expected]
                plain[place][said] += 1
    outcomes = {"harfeat": tally, "decord itself": plain}
    out.write_text(
        json.dumps({"seed": seed, "files": files, "machine": machine(), "outcomes": outcomes}, indent=2) + "\n"
    )
    click.echo(json.dumps(outcomes, indent=2))
    sys.exit(any(counter["wrong"] for counter in tally.values()))


if __name__ == "__main__":
    main()
