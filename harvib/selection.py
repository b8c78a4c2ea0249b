"""Which inputs a model reads at all, decided before training from the train part alone."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from sklearn.feature_selection import f_classif
from torch import Tensor

from harvib.data import ClipSet
from harvib.errors import InputError
from harvib.unitrows import unit_rows


def select_inputs(train: ClipSet, count: int, normalize: bool = False) -> Tensor:
    """Indices of the `count` features with the highest ANOVA F of the clips' time averages, ascending; 0: all.

    Constant features have no F and come last; of equals the lower index wins. A clip of several labels counts once
    in each of its classes. With `normalize` the averages are of rows of length 1.
    """
    if count == 0:
        return torch.arange(train.dim)
    if count > train.dim:
        raise InputError(f"--select-inputs {count}: there are only {train.dim} features")
    means, labels = [], []
    for batch in train.batches(128, torch.device("cpu")):
        features = unit_rows(batch.features) if normalize else batch.features
        averages = features.sum(1) / batch.lengths[:, None]
        if batch.labels.ndim == 2:
            clips, classes = batch.labels.nonzero(as_tuple=True)
            means.append(averages[clips])
            labels.append(classes)
        else:
            means.append(averages)
            labels.append(batch.labels)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Features .* are constant", UserWarning)
        scores, _ = f_classif(torch.cat(means).numpy(), torch.cat(labels).numpy())
    order = np.argsort(-np.nan_to_num(scores, nan=-1.0), kind="stable")
    return torch.from_numpy(np.sort(order[:count]))
