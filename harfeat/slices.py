"""One extraction cut into N slices that know nothing of each other, for the jobs of a scheduler's array.

Slice I of N takes the clips I-1, I-1+N, I-1+2N, ... of the data set, with the splits of the whole, and writes a
folder of its own, `OUT/slice-I-of-N`. `harfeat merge OUT --out X.h5` makes one cache of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harfeat.cache.folder import is_packed
from harfeat.cache.manifest import MANIFEST
from harfeat.cache.merging import SLICE_FOLDERS, Slice, slice_name
from harfeat.datasets import Dataset
from harfeat.datasets.subset import take
from harfeat.errors import InputError


@dataclass(frozen=True)
class _Array:
    """The variables by which a scheduler tells a job its place; "" where it has none. `first` may be a number."""

    name: str
    index: str
    first: str
    last: str = ""
    count: str = ""
    step: str = ""


_ARRAYS = (
    _Array("SLURM", "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX",
           "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_STEP"),
    _Array("Grid Engine", "SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "", "SGE_TASK_STEPSIZE"),
    _Array("LSF", "LSB_JOBINDEX", "1", "LSB_JOBINDEX_END", "", "LSB_JOBINDEX_STEP"),
    _Array("AWS Batch", "AWS_BATCH_JOB_ARRAY_INDEX", "0", "", "AWS_BATCH_JOB_ARRAY_SIZE"),
    _Array("Google Batch", "BATCH_TASK_INDEX", "0", "", "BATCH_TASK_COUNT"),
)  # fmt: skip

_TASKS = (
    # Not SLURM_NTASKS, which a batch script has too, where it runs once and not under srun.
    _Array("srun", "SLURM_PROCID", "0", "", "SLURM_STEP_NUM_TASKS"),
    _Array("Open MPI", "OMPI_COMM_WORLD_RANK", "0", "", "OMPI_COMM_WORLD_SIZE"),
    _Array("MPI", "PMI_RANK", "0", "", "PMI_SIZE"),
)

_COUNTLESS = {
    "PBS_ARRAY_INDEX": "$PBS_ARRAY_INDEX/N with jobs 1-N",
    "PBS_ARRAYID": "$PBS_ARRAYID/N with jobs 1-N",
    "JOB_COMPLETION_INDEX": "$((JOB_COMPLETION_INDEX + 1))/N",
}
"""Variables of schedulers that do not tell how many jobs there are."""


def parse_slice(text: str, environment: Mapping[str, str]) -> Slice | None:
    """What `--shard` means: `I/N` counted from 1, `none`, or `auto`, which asks the environment; None: all of it.

    Raises InputError.
    """
    if text == "auto":
        return slice_of_environment(environment)
    if text == "none":
        return None
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--shard {text}: say I/N with I from 1 to N, or auto, or none")
    return (int(match[1]) - 1, int(match[2])) if match[2].strip("0") != "1" else None


def slice_of_environment(environment: Mapping[str, str]) -> Slice | None:
    """The slice that a job of an array, or a task of a step, is to do; (i, n) counted from 0, None where alone.

    Tasks inside of a job of an array divide its slice again. Raises InputError where the number of slices cannot
    be known: an array with gaps, a scheduler that does not tell it.
    """
    parts = [
        next((part for array in kind if (part := _place(array, environment))), (0, 1))
        for kind in (_ARRAYS, _TASKS)
    ]
    (i, n), (task, tasks) = parts
    if n * tasks > 1:
        return i * tasks + task, n * tasks
    for name, advice in _COUNTLESS.items():
        if environment.get(name):
            raise InputError(
                f"{name} is set, but not how many jobs there are: say --shard {advice}, or --shard none"
            )
    return None


def _place(array: _Array, environment: Mapping[str, str]) -> Slice | None:
    """Where in this array; None where there is none, or one job alone."""
    index = _number(environment, array.index)
    if index is None:
        return None
    first = _number(environment, array.first)
    last, step = _number(environment, array.last), _number(environment, array.step) or 1
    count = _number(environment, array.count)
    if first is not None and last is not None:
        spanned = (last - first) // step + 1
        # Counted by the scheduler, where it does, because of gaps as in --array=1,3,7.
        if count not in (None, spanned):
            raise InputError(f"the array has gaps ({array.count}={count} of {first}-{last}): say --shard I/N")
        count = spanned
    if first is None or count is None or count < 2:
        return None
    place = (index - first) // step
    if not 0 <= place < count:
        raise InputError(f"{array.index}={index} is outside of the {count} jobs of {array.name}: say --shard I/N")
    return place, count


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """A variable's value, or the number that stands for it; None where it is unset or, as with SGE, undefined."""
    value = name if name.isdigit() else environment.get(name, "")
    return int(value) if value.isdigit() else None


def slice_folder(out: Path, part: Slice) -> Path:
    """The folder of one slice; raises InputError where `out` cannot hold folders of slices."""
    told = f"{part[0] + 1}/{part[1]}"
    if is_packed(out):
        raise InputError(
            f"--out {out}: slice {told} needs a folder: say --out {out.with_suffix('')}, and when all slices are "
            f"done `harfeat merge {out.with_suffix('')} --out {out}`; or --shard none to extract everything here"
        )
    if (out / MANIFEST).exists():
        raise InputError(
            f"{out}: holds an extraction that is not in slices: choose another --out for slice {told}"
        )
    return out / slice_name(part)


def refuse_slices(out: Path) -> None:
    """Raise InputError where a whole extraction would go into a folder of slices.

    So it would where a scheduler runs one job of an array again on its own, and no longer tells of the others.
    """
    if any(out.glob(SLICE_FOLDERS)):
        raise InputError(f"{out}: holds slices; say which one to do, --shard I/N, or choose another --out")


def sliced(dataset: Dataset, part: Slice | None) -> Dataset:
    """The clips of one slice, with their roles in the splits of the whole."""
    return dataset if part is None else take(dataset, range(part[0], len(dataset.clips), part[1]))
