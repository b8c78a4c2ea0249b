"""Slices of one extraction: who does which, told by hand or by the scheduler, and that they make the whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from videos import write_short_clips

from harfeat.cache import open_cache
from harfeat.cache.manifest import read_manifest
from harfeat.cli import main
from harfeat.errors import InputError
from harfeat.slices import parse_slice, slice_of_environment

OPTIONS = (
    *("--dataset", "folder", "--model", "test_vit", "--weights", "none", "--frames", "2", "--workers", "0"),
    *("--device", "cpu", "--precision", "float32", "--group-pattern", "g[0-9]", "--test-groups", "g1"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 clips of 2 classes and 3 groups, one of them broken."""
    root = tmp_path_factory.mktemp("videos")
    names = [f"{('jump', 'run')[number % 2]}/g{number % 3}_{number:02d}.mpg" for number in range(11)]
    write_short_clips(root, names, broken="run/g1_07.mpg")
    return root


def harfeat(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def extract(root: Path, out: Path, *more: object) -> Any:
    return harfeat("extract", *OPTIONS, "--max-failures", "1", "--root", root, "--out", out, *more)


ARRAYS: list[tuple[dict[str, Any], tuple[int, int] | None]] = [
    ({}, None),
    ({"SLURM_ARRAY_TASK_ID": 3, "SLURM_ARRAY_TASK_MIN": 1, "SLURM_ARRAY_TASK_MAX": 4, "SLURM_ARRAY_TASK_COUNT": 4,
      "SLURM_ARRAY_TASK_STEP": 1}, (2, 4)),
    # --array=10-30:10
    ({"SLURM_ARRAY_TASK_ID": 30, "SLURM_ARRAY_TASK_MIN": 10, "SLURM_ARRAY_TASK_MAX": 30,
      "SLURM_ARRAY_TASK_COUNT": 3, "SLURM_ARRAY_TASK_STEP": 10}, (2, 3)),
    ({"SLURM_ARRAY_TASK_ID": 5, "SLURM_ARRAY_TASK_MIN": 5, "SLURM_ARRAY_TASK_MAX": 5,
      "SLURM_ARRAY_TASK_COUNT": 1}, None),
    ({"SLURM_PROCID": 1, "SLURM_STEP_NUM_TASKS": 2, "SLURM_NTASKS": 2}, (1, 2)),
    # A batch script of several tasks runs once.
    ({"SLURM_PROCID": 0, "SLURM_NTASKS": 8}, None),
    # Two jobs of three tasks each.
    ({"SLURM_ARRAY_TASK_ID": 1, "SLURM_ARRAY_TASK_MIN": 0, "SLURM_ARRAY_TASK_MAX": 1, "SLURM_ARRAY_TASK_COUNT": 2,
      "SLURM_PROCID": 2, "SLURM_STEP_NUM_TASKS": 3}, (5, 6)),
    ({"SGE_TASK_ID": 5, "SGE_TASK_FIRST": 1, "SGE_TASK_LAST": 7, "SGE_TASK_STEPSIZE": 2}, (2, 4)),
    ({"SGE_TASK_ID": "undefined", "SGE_TASK_FIRST": "undefined", "SGE_TASK_LAST": "undefined"}, None),
    ({"LSB_JOBINDEX": 4, "LSB_JOBINDEX_END": 4, "LSB_JOBINDEX_STEP": 1}, (3, 4)),
    ({"LSB_JOBINDEX": 0}, None),
    ({"AWS_BATCH_JOB_ARRAY_INDEX": 0, "AWS_BATCH_JOB_ARRAY_SIZE": 5}, (0, 5)),
    ({"BATCH_TASK_INDEX": 2, "BATCH_TASK_COUNT": 3}, (2, 3)),
    ({"OMPI_COMM_WORLD_RANK": 1, "OMPI_COMM_WORLD_SIZE": 4}, (1, 4)),
    ({"PMI_RANK": 0, "PMI_SIZE": 1}, None),
]  # fmt: skip


@pytest.mark.parametrize(("variables", "expected"), ARRAYS)
def test_a_scheduler_is_understood(variables: dict[str, Any], expected: tuple[int, int] | None) -> None:
    environment = {key: str(value) for key, value in variables.items()} | {"HOME": "/"}
    assert slice_of_environment(environment) == expected
    assert parse_slice("auto", environment) == expected
    assert parse_slice("none", environment) is None
    assert parse_slice("2/3", environment) == (1, 3)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"PBS_ARRAY_INDEX": "3"}, r"--shard \$PBS_ARRAY_INDEX/N"),
        ({"JOB_COMPLETION_INDEX": "0"}, r"--shard \$\(\(JOB_COMPLETION_INDEX \+ 1\)\)/N"),
        # --array=1,3,7
        (
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "7",
             "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_STEP": "1"},
            "the array has gaps",
        ),
        ({"BATCH_TASK_INDEX": "7", "BATCH_TASK_COUNT": "3"}, "outside of the 3 jobs"),
    ],
)  # fmt: skip
def test_what_a_scheduler_does_not_tell_is_asked_for(variables: dict[str, str], told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        parse_slice("auto", variables)
    assert "\n" not in str(caught.value)
    assert parse_slice("none", variables) is None


@given(st.integers(2, 50), st.integers(0, 99), st.integers(1, 9), st.integers(1, 6))
def test_every_job_of_an_array_has_a_slice_of_its_own(count: int, first: int, step: int, tasks: int) -> None:
    found = [
        slice_of_environment({
            "SLURM_ARRAY_TASK_ID": str(first + job * step),
            "SLURM_ARRAY_TASK_MIN": str(first),
            "SLURM_ARRAY_TASK_MAX": str(first + (count - 1) * step),
            "SLURM_ARRAY_TASK_COUNT": str(count),
            "SLURM_ARRAY_TASK_STEP": str(step),
            "SLURM_PROCID": str(task),
            "SLURM_STEP_NUM_TASKS": str(tasks),
        })
        for job in range(count)
        for task in range(tasks)
    ]  # fmt: skip
    assert found == [(i, count * tasks) for i in range(count * tasks)]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0", "1", "a/b", "-1/4", "1/4/2", ""])
def test_what_is_no_slice_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="say I/N"):
        parse_slice(text, {})


def test_one_of_one_is_all() -> None:
    assert parse_slice("1/1", {}) is None


def start(root: Path, out: Path, number: int, **popen: Any) -> subprocess.Popen[str]:
    """A process that learns from its environment which slice is its own."""
    command = [sys.executable, "-m", "harfeat.cli", "extract", *OPTIONS, "--root", root, "--out", out]
    environment = {**os.environ, "AWS_BATCH_JOB_ARRAY_INDEX": str(number), "AWS_BATCH_JOB_ARRAY_SIZE": "4"}
    code = "import sys; from harfeat.cli import main; main(sys.argv[1:])"
    command[1:3] = ["-c", code]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(list(map(str, command)), env=environment, text=True, **pipes, **popen)


def test_four_processes_one_killed_and_run_again_make_the_whole(made: Path, tmp_path: Path) -> None:
    assert extract(made, tmp_path / "single.h5").exit_code == 0
    out = tmp_path / "out"
    running = [start(made, out, number, start_new_session=True) for number in range(4)]
    end = time.monotonic() + 120
    while not (out / "slice-3-of-4").exists() and running[2].poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(running[2].pid, signal.SIGKILL)
    codes = []
    for process in running:
        process.communicate(timeout=120)
        codes.append(process.returncode)
    # run/g1_07.mpg is the tenth by name, so it falls to the second slice.
    assert codes == [0, 1, -9, 0]
    assert harfeat("status", out, "--check").exit_code == 1
    refused = harfeat("merge", out, "--out", tmp_path / "merged.h5")
    assert refused.exit_code == 2
    assert "slice-3-of-4" in refused.stderr
    again = start(made, out, 2)
    assert again.communicate(timeout=120)[1].count("\nharfeat:") == 0
    assert again.returncode == 0
    assert harfeat("status", out, "--check").exit_code == 0
    assert harfeat("merge", out, "--out", tmp_path / "merged.h5").exit_code == 0
    with open_cache(tmp_path / "single.h5") as one, open_cache(tmp_path / "merged.h5") as other:
        assert len(one.clips) == 10
        assert one.content == other.content
    for number in range(4):
        manifest = read_manifest(out / f"slice-{number + 1}-of-4")
        assert (manifest.slice, manifest.complete) == ((number, 4), True)
        assert manifest.planned == len(range(number, 11, 4))


def test_more_slices_than_clips(made: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    for name in ("jump/g0_00.mpg", "run/g1_01.mpg"):
        (few / name).parent.mkdir(parents=True)
        (few / name).symlink_to(made / name)
    for number in (1, 2, 3):
        result = extract(few, tmp_path / "out", "--shard", f"{number}/3")
        assert result.exit_code == 0, result.stderr
    manifest = read_manifest(tmp_path / "out" / "slice-3-of-3")
    assert (manifest.planned, manifest.done, manifest.complete) == (0, 0, True)
    assert extract(few, tmp_path / "single.h5").exit_code == 0
    assert harfeat("merge", tmp_path / "out", "--out", tmp_path / "merged.h5").exit_code == 0
    with open_cache(tmp_path / "single.h5") as one, open_cache(tmp_path / "merged.h5") as other:
        assert one.content == other.content


def test_a_slice_goes_where_slices_can_be(made: Path, tmp_path: Path) -> None:
    wrong = extract(made, tmp_path / "x.h5", "--shard", "1/4")
    assert (wrong.exit_code, len(wrong.stderr.splitlines())) == (2, 1)
    assert f"harfeat merge {tmp_path / 'x'} --out {tmp_path / 'x.h5'}" in wrong.stderr
    assert extract(made, tmp_path / "x", "--shard", "2/11").exit_code in (0, 1)
    # A job of an array that is run again alone does not know of the others.
    alone = extract(made, tmp_path / "x")
    assert alone.exit_code == 2
    assert "holds slices; say which one to do" in alone.stderr
    assert extract(made, tmp_path / "whole").exit_code == 0
    inside = extract(made, tmp_path / "whole", "--shard", "1/4")
    assert inside.exit_code == 2
    assert "holds an extraction that is not in slices" in inside.stderr
