"""Latency, memory and size of models: of a run (`bench_run`), or of any models in torch (`measure`)."""

from harvib.bench.models import measure
from harvib.bench.run import bench_run, measured, medians
from harvib.bench.settings import BenchSettings
from harvib.bench.table import bench_table, cells_of, conditions, sentences
from harvib.bench.timing import WARM_UP_ROUNDS, interleaved, per_clip, random_clips, threads

__all__ = [
    "WARM_UP_ROUNDS",
    "BenchSettings",
    "bench_run",
    "bench_table",
    "cells_of",
    "conditions",
    "interleaved",
    "measure",
    "measured",
    "medians",
    "per_clip",
    "random_clips",
    "sentences",
    "threads",
]
