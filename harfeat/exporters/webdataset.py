"""A folder of tar shards as the webdataset package (and any tar reader) takes them: one sample a clip.

    KEY.npy             (T, D) features of the stream rgb; KEY.<stream>.npy of every other
    KEY.cls             the label, of clips that have exactly one
    KEY.json            name, class, group, role in each split, source frames, fps, hash, frame indices; where some
                        clip has not exactly one label (label -1), all of them as `labels` and `classes`
    dataset.json        classes, splits, failures, provenance; beside the shards

A key is the clip's number and what of its name is letters and digits: readers cut keys at the first dot.
"""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from harfeat.cache import ROLES
from harfeat.cache.schema import DEFAULT_STREAM
from harfeat.cache.writer import sync
from harfeat.errors import InputError
from harfeat.exporters.tables import Selection

_LONGEST_NAME = 60
"""Of a clip's name in its key: the plain tar format ends at 100 bytes, and a stream's name comes after it."""


def write_webdataset(selection: Selection, out: Path) -> None:
    """Write the folder `out`: `clips-000000.tar`, ..., or with a split `train-000000.tar`, ... by role."""
    with _atomic_folder(out) as folder:
        shards = {
            role: _write_shards(selection, clips, folder, role)
            for role, clips in _clips_by_role(selection).items()
        }
        facts = {
            key: json.loads(value) if key in ("provenance", "split_rules") else value
            for key, value in selection.facts().items()
        }
        failures = {failure.name: failure.reason for failure in selection.cache.failures}
        told = {**facts, "classes": list(selection.cache.classes), "failures": failures, "shards": shards}
        (folder / "dataset.json").write_text(json.dumps(told, indent=1, sort_keys=True))
        for path in folder.iterdir():
            sync(path)


def _clips_by_role(selection: Selection) -> dict[str, np.ndarray]:
    """Which clips stand in which row of shards, in their order."""
    settings, count = selection.settings, len(selection.cache.clips)
    order = (
        np.arange(count)
        if settings.shuffle is None
        else np.random.default_rng(settings.shuffle).permutation(count)
    )
    if settings.split is None:
        return {"clips": order}
    roles = selection.cache.split(settings.split).roles[order]
    found = {name: order[roles == role] for name, role in ROLES.items()}
    return {name: clips for name, clips in found.items() if len(clips)}


def _write_shards(selection: Selection, clips: Sequence[int] | np.ndarray, folder: Path, role: str) -> list[str]:
    size = selection.settings.shard_clips
    names = []
    for number, first in enumerate(range(0, len(clips), size)):
        names.append(f"{role}-{number:06d}.tar")
        with tarfile.open(folder / names[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
            for clip in clips[first : first + size]:
                _add_sample(tar, selection, int(clip))
    return names


def _add_sample(tar: tarfile.TarFile, selection: Selection, clip: int) -> None:
    cache, row = selection.cache, selection.cache.clips[clip]
    key = key_of_clip(clip, row.name)
    frames = {}
    for stream in selection.streams:
        values = cache.read(clip, stream)
        frames[stream] = values.frame_index.tolist()
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, values.features, allow_pickle=False)
        _add(tar, f"{key}.npy" if stream == DEFAULT_STREAM else f"{key}.{stream}.npy", buffer.getvalue())
    if row.label >= 0:
        _add(tar, f"{key}.cls", str(row.label).encode())
    role_of = {role: name for name, role in ROLES.items()}
    told: dict[str, Any] = {
        "name": row.name,
        "label": row.label,
        "class": cache.classes[row.label] if row.label >= 0 else None,
        "group": row.group,
        "splits": {name: role_of[int(split.roles[clip])] for name, split in cache.splits.items()},
        "source_frames": row.source_frames,
        "fps": row.fps if math.isfinite(row.fps) else None,
        "sha256": row.sha256,
        "damaged": None if row.damaged < 0 else bool(row.damaged),
        "frame_index": frames,
    }
    if cache.has_several:
        told["labels"] = list(row.all_labels)
        told["classes"] = [cache.classes[label] for label in row.all_labels]
    _add(tar, f"{key}.json", json.dumps(told, sort_keys=True).encode())


def key_of_clip(clip: int, name: str) -> str:
    """The key of a sample: unique by the clip's number, safe in any file system, without a dot."""
    readable = re.sub("[^A-Za-z0-9]+", "_", name).strip("_")[:_LONGEST_NAME]
    return f"{clip:07d}-{readable}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    # A fresh entry has neither time nor owner: equal caches give equal shards.
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


@contextmanager
def _atomic_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well, and otherwise vanishes."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
        try:
            yield temporary
            temporary.chmod(0o755)
            temporary.rename(out)
            sync(out.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error})") from error
