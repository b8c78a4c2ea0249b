"""Clips without what a model does not see of them: features that it does not read, time that it averages away.

A stage goes over its clips once an epoch. What is left out of them once need not be gathered, converted and
computed with again and again: a compact model reads a few hundred of thousands of features, and "mean over time +
linear" sees one row a clip. Logits and gradients are the same up to rounding, and noise is drawn alike.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from harvib.classifier import Classifier
from harvib.data import ClipSet, as_numbers

_MOST = 0.5
"""A copy of the rows may take so much of the memory of the rows themselves; else they are used as they are."""


@contextmanager
def reduced(model: Classifier, *sets: ClipSet) -> Iterator[tuple[ClipSet, ...]]:
    """The sets of clips as this model sees them; within the block it takes them, and only them.

    Behind a front nothing is left out: that reads whole rows.
    """
    if model.front is not None:
        yield sets
        return
    whole, size = model.spec, sets[0].rows.element_size()
    # Rows of length 1 are no bytes and no half floats any more.
    wanted = torch.float32.itemsize if whole.normalize else size
    selects = whole.inputs < whole.features and whole.inputs * wanted <= _MOST * whole.features * size
    columns = model.selection.cpu() if selects else None
    averages = [model.sees_mean and _pays(clips, whole.inputs if selects else whole.features) for clips in sets]
    if whole.normalize:
        # One model sees all of them: where some are normalised beforehand, all are.
        averages = [all(averages)] * len(sets)
    found = [
        _copied(clips, columns, averaged, whole.normalize) if selects or averaged else clips
        for clips, averaged in zip(sets, averages, strict=True)
    ]
    if whole.normalize and (selects or all(averages)):
        model.spec = dataclasses.replace(whole, normalize=False)
    if selects:
        # Nothing is left to select: such a model reads all features of a row.
        model.spec = dataclasses.replace(model.spec, features=whole.inputs)
    try:
        yield tuple(found)
    finally:
        model.spec = whole


def _copied(clips: ClipSet, columns: Tensor | None, averaged: bool, normalize: bool) -> ClipSet:
    """The same clips with the features `columns` (K,) alone, all where None; the rows stay as stored.

    `averaged`: each clip, in each view, is one row, the mean over its time, in float32; `normalize`: rows are made
    of length 1 before all else, in float32. Other clips are left without rows.
    """
    ours, spans = np.unique(clips.clips), clips.spans()
    lengths = np.zeros(spans.shape[:2], np.int64)
    lengths[:, ours] = 1 if averaged else spans[:, ours, 1] - spans[:, ours, 0]
    ends = lengths.cumsum().reshape(lengths.shape)
    width = clips.dim if columns is None else len(columns)
    rows = torch.empty(
        int(ends[-1, -1]), width, dtype=torch.float32 if averaged or normalize else clips.rows.dtype
    )
    for stream, clip in itertools.product(range(len(spans)), ours.tolist()):
        (first, last), end = spans[stream, clip], ends[stream, clip]
        # Averaged in float64: a sum of many like values must not lose what tells clips apart.
        dtype = torch.float64 if averaged else torch.float32
        piece = clips.numbers(first, last, dtype, normalize) if normalize else clips.rows[first:last]
        if columns is not None:
            piece = piece.index_select(1, columns)
        if averaged:
            piece = as_numbers(piece, dtype, clips.quantisation).mean(0, keepdim=True)
        rows[end - lengths[stream, clip] : end] = piece
    offsets = np.concatenate([[0], ends[0]])
    views = None if clips.views is None else np.stack([ends - lengths, ends], axis=-1)[1:]
    return dataclasses.replace(clips, rows=rows, offsets=offsets, views=views)


def _pays(clips: ClipSet, width: int) -> bool:
    """Whether one float32 row of this width a clip, and for each of its views, is small beside the rows."""
    spans = clips.spans()[:, clips.clips]
    stored = int((spans[..., 1] - spans[..., 0]).sum()) * clips.dim * clips.rows.element_size()
    return spans[..., 0].size * width * torch.float32.itemsize <= _MOST * stored
