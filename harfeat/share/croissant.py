"""Croissant metadata of a shared cache (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html).

The files are told with their SHA-256. Classes and splits are record sets whose records stand in the metadata
itself, since Croissant has no way into HDF5.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import numpy as np

from harfeat.cache import Cache
from harfeat.cache.manifest import Manifest
from harfeat.share.card import LICENCE, title_of
from harfeat.splits import TEST, TRAIN, UNUSED

_TERMS = [
    *("citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet"),
    *("format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
    *(
        "references",
        "regex",
        "repeated",
        "replace",
        "samplingRate",
        "separator",
        "source",
        "subField",
        "transform",
    ),
]
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS},
}


def croissant(cache: Cache, manifest: Manifest) -> str:
    """The text of croissant.json for a cache whose files `manifest` lists."""
    title = title_of(cache)
    rows = {name: int(np.sum(cache.lengths(name))) for name in cache.streams}
    streams = ", ".join(f"{name}: {rows[name]} rows of {cache.dim(name)} {cache.dtype(name)}" for name in rows)
    metadata = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": title,
        "description": f"Frame features of action videos, extracted by harfeat: {len(cache.clips)} clips of "
        f"{len(cache.classes)} classes ({streams}). Fingerprint {cache.fingerprint}. README.md says more.",
        "license": LICENCE,
        "citeAs": f"{title}, harfeat feature cache with fingerprint {cache.fingerprint}",
        "datePublished": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "version": "1.0.0",
        "isLiveDataset": False,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": entry.name,
                "name": entry.name,
                "description": f"HDF5, {entry.kind} of a harfeat cache, {entry.clips} clips",
                "contentUrl": entry.name,
                "contentSize": f"{entry.bytes} B",
                "encodingFormat": "application/x-hdf5",
                "sha256": entry.sha256,
            }
            for entry in manifest.files
        ],
        "recordSet": [_class_records(cache), *([_split_records(cache)] if cache.splits else [])],
    }
    return json.dumps(metadata, indent=1, ensure_ascii=False) + "\n"


def _class_records(cache: Cache) -> dict[str, Any]:
    counts, several = cache.clips_per_class, cache.has_several
    records = [
        {"index": index, "name": name, "clips": int(counts[index])} for index, name in enumerate(cache.classes)
    ]
    column = "clips/label" if not several else "labels/index, of clips that may have several"
    kinds = {"index": ("sc:Integer", f"Label of the class in {column}."), "name": ("sc:Text", "The class.")}
    return _record_set(
        "classes",
        "The classes, in the order of their labels.",
        "index",
        kinds | {"clips": ("sc:Integer", "Clips that have it." if several else "Clips whose one label it is.")},
        records,
    )


def _split_records(cache: Cache) -> dict[str, Any]:
    roles = {"train": TRAIN, "test": TEST, "unused": UNUSED}
    records = [
        {
            "name": name,
            **{word: int(np.sum(split.roles == role)) for word, role in roles.items()},
            "leaking_groups": split.leaking_groups,
            "rule": split.rule,
        }
        for name, split in cache.splits.items()
    ]
    kinds = {"name": ("sc:Text", "The split, as in splits/<name> of the file.")}
    kinds |= {word: ("sc:Integer", f"Clips whose role is {word}.") for word in roles}
    kinds |= {
        "leaking_groups": ("sc:Integer", "Groups with clips in both train and test."),
        "rule": ("sc:Text", "How the roles were chosen."),
    }
    return _record_set("splits", "The train and test splits that the cache carries.", "name", kinds, records)


def _record_set(
    name: str, description: str, key: str, kinds: dict[str, tuple[str, str]], records: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "key": {"@id": f"{name}/{key}"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{field}",
                "name": field,
                "description": meaning,
                "dataType": kind,
            }
            for field, (kind, meaning) in kinds.items()
        ],
        "data": [{f"{name}/{field}": value for field, value in record.items()} for record in records],
    }
