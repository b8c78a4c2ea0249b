"""The data set card of a shared cache: README.md, with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from harfeat.cache import Cache
from harfeat.cache.manifest import Manifest
from harfeat.share.markdown import flat, plain, table
from harfeat.splits import TEST, TRAIN, UNUSED

_MANY_FAILURES = 20
_SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7))
LICENCE = (
    "The features are derived from videos that belong to others. The terms of the data set they were computed "
    "from apply to them as well; whoever shares this folder adds no right of their own."
)


def title_of(cache: Cache) -> str:
    """A short name: the data set where the cache knows it, and the model where its recipe tells one."""
    dataset = cache.provenance.get("dataset")
    name = dataset.get("name") if isinstance(dataset, Mapping) else None
    model = cache.recipe.get("model")
    words = [str(name) if name else "Action video", "features"]
    return " ".join([*words, *(["by", str(_inner(model))] if model else [])])


def card(cache: Cache, manifest: Manifest) -> str:
    """The text of README.md for a cache whose files `manifest` lists. Everything is read from the cache."""
    title = title_of(cache)
    return "\n".join(
        [
            _front_matter(title, len(cache.clips)),
            f"# {plain(title)}\n",
            "Frame features of action videos, extracted by harfeat.\n",
            f"{len(cache.clips):,} clips of {len(cache.classes):,} classes in {len(manifest.files)} file(s); "
            f"{len(cache.failures):,} clips of the data set could not be extracted.\n",
            "## How to load\n",
            _loading(manifest, cache.main_stream),
            "## What is inside\n",
            table(("stream", "rows", "values a row", "type"), _streams(cache)),
            *_quantisation(cache),
            "## Splits\n",
            table(("split", "train", "test", "unused", "leaking groups", "rule"), _splits(cache)),
            "A leaking group is a source video or subject with clips in both train and test: "
            "accuracy on such a split is inflated.\n",
            "## How the features were made\n",
            table(("field", "value"), list(flat(cache.recipe)) + list(flat(_told(cache)))),
            "## Classes\n",
            *_several(cache),
            table(("index", "class", "clips"), _classes(cache)),
            *_failures(cache),
            "## Identity\n",
            f"- fingerprint: `{cache.fingerprint}` (SHA-256 of the recipe above; caches with different ones "
            "must not be mixed)",
            f"- content: `{cache.content}` (SHA-256 over features, clips, labels and splits; equal caches have "
            "equal ones, however they are cut into files)",
            "- every file's SHA-256 stands in `manifest.json` and in `croissant.json`\n",
            "## Licence\n",
            f"{LICENCE}\n",
        ]
    )


def _front_matter(title: str, clips: int) -> str:
    size = next((name for name, bound in _SIZES if clips < bound), "n>10M")
    # JSON's strings and lists are YAML.
    fields = {
        "pretty_name": title,
        "license": "other",
        "license_name": "terms-of-the-source-videos",
        "task_categories": ["video-classification"],
        "size_categories": [size],
        "tags": ["harfeat", "action-recognition", "video-features", "hdf5"],
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in fields.items()), "---\n"])


def _loading(manifest: Manifest, stream: str) -> str:
    packed = manifest.of_kind("cache")
    example = packed[0].name if packed else manifest.of_kind("shard")[0].name if manifest.of_kind("shard") else ""
    place = f"<folder>/{packed[0].name}" if packed else "<folder>"
    return f"""Checked and complete, with harfeat (`harfeat pull <address>` fetches the folder):

```python
from harfeat.cache import open_cache

with open_cache("{place}") as cache:
    rows = cache.read(0).features            # (frames, values) of the first clip
    names = [clip.name for clip in cache.clips]
```

With nothing but h5py; clip v owns the rows `offsets[v]:offsets[v + 1]`:

```python
import h5py

with h5py.File("{example}", "r") as file:
    stream = file[{json.dumps(f"streams/{stream}")}]
    start, stop = stream["offsets"][0:2]
    rows = stream["features"][start:stop]
    name = file["clips/name"][0].decode()
```
"""


def _streams(cache: Cache) -> list[tuple[str, ...]]:
    return [
        (name, f"{int(np.sum(cache.lengths(name))):,}", f"{cache.dim(name):,}", str(cache.dtype(name)))
        for name in cache.streams
    ]


def _quantisation(cache: Cache) -> list[str]:
    told = [name for name in cache.streams if cache.dtype(name) == np.uint8]
    if not told or "quantisation" not in cache.recipe:
        return []
    scale, shift = cache.quantisation(told[0])
    return [f"Bytes stand for value * {scale:.9g} + {shift:.9g}.\n"]


def _splits(cache: Cache) -> list[tuple[str, ...]]:
    return [
        (
            name,
            *(f"{int(np.sum(split.roles == role)):,}" for role in (TRAIN, TEST, UNUSED)),
            f"{split.leaking_groups:,}",
            split.rule,
        )
        for name, split in cache.splits.items()
    ]


def _classes(cache: Cache) -> list[tuple[str, ...]]:
    counts = cache.clips_per_class
    return [(str(index), name, f"{counts[index]:,}") for index, name in enumerate(cache.classes)]


def _several(cache: Cache) -> list[str]:
    if not cache.has_several:
        return []
    sizes = np.diff(cache.label_sets[0])
    return [
        f"A clip may have several labels: {float(sizes.mean()):.2f} in the mean, {int(sizes.max())} at most; "
        f"{int((sizes == 0).sum()):,} clips have none. Clip v has the classes "
        "`labels/index[labels/offsets[v]:labels/offsets[v + 1]]` (in a folder of shards, those of `head-*.h5`, in "
        "its order of clips); `clips/label` is -1 where there is not exactly one. A clip counts in each of its "
        "classes.\n"
    ]


def _failures(cache: Cache) -> list[str]:
    if not cache.failures:
        return []
    rows = [(failure.name, failure.reason) for failure in cache.failures[:_MANY_FAILURES]]
    rest = len(cache.failures) - len(rows)
    return [
        "## Clips that are missing\n",
        table(("clip", "reason"), rows),
        *([f"and {rest:,} more, listed in the cache\n"] if rest else []),
    ]


def _told(cache: Cache) -> dict[str, Any]:
    """What the provenance says beside the recipe; no paths of the machine it was made on."""
    return {key: cache.provenance[key] for key in ("versions", "machine") if key in cache.provenance}


def _inner(model: Any) -> Any:
    return model.get("name", "") if isinstance(model, Mapping) else model
