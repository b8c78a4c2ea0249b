"""Extraction by other processes: the same content as in one, also where a worker dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import distributed
import pytest
from videos import write_short_clips

from harfeat import backends
from harfeat.cache import open_cache
from harfeat.cache.manifest import read_manifest
from harfeat.chunks import Done, Job, run_chunk
from harfeat.datasets import Clip
from harfeat.errors import InputError
from harfeat.extraction import Destination
from harfeat.pipeline import ExtractResult, extract
from harfeat.sampling import SamplingSettings
from harfeat.settings import ExtractSettings


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 clips of 2 classes, one of them broken."""
    root = tmp_path_factory.mktemp("videos")
    names = [f"{('jump', 'run')[number % 2]}/{number:02d}.mpg" for number in range(14)]
    write_short_clips(root, names, broken="run/07.mpg")
    return root


def settings(root: Path, out: Path, **changes: Any) -> ExtractSettings:
    sampling = SamplingSettings(frames=2)
    plain = ExtractSettings(
        "folder", root, out, "test_vit", "none", sampling, device="cpu", precision="float32", batch=8
    )
    return replace(plain, **changes)


@pytest.fixture(scope="module")
def single(made: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The content that one process makes."""
    out = tmp_path_factory.mktemp("single") / "x.h5"
    extract(settings(made, out, workers=0), progress=False)
    with open_cache(out) as cache:
        return cache.content


def check(result: ExtractResult, single: str) -> None:
    assert result.clips == 13
    assert [failure.name for failure in result.failures] == ["run/07.mpg"]
    with open_cache(result.out) as cache:
        assert cache.content == single
        assert cache.failures == result.failures


_TESTER = int(os.environ.setdefault("HARFEAT_TEST_PROCESS", str(os.getpid())))
"""The process of the tests; workers inherit the variable."""


def die() -> None:
    assert os.getpid() != _TESTER, "a chunk ran in the process that only hands them out"
    os.kill(os.getpid(), signal.SIGKILL)


def deadly(job: Job, destination: Destination, clips: Sequence[Clip]) -> Done:
    """A chunk whose worker dies under it, the first time, right after its shard was written."""
    done = run_chunk(job, destination, clips)
    try:
        (destination.folder.parent / "died").touch(exist_ok=False)
    except FileExistsError:
        return done
    die()
    raise AssertionError


def always_deadly(job: Job, destination: Destination, clips: Sequence[Clip]) -> Done:
    die()
    raise AssertionError


def elsewhere(job: Job, destination: Destination, clips: Sequence[Clip]) -> Done:
    """A chunk that says which process it ran in."""
    (destination.folder.parent / f"ran-in-{os.getpid()}").touch()
    return run_chunk(job, destination, clips)


def test_one_process_a_device(made: Path, single: str, tmp_path: Path) -> None:
    check(extract(settings(made, tmp_path / "x.h5", device="cpu,cpu"), progress=False), single)
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5"]


def test_a_dying_process_loses_nothing(
    made: Path, single: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loky = settings(made, tmp_path / "x", backend="loky", jobs=2, workers=0)
    monkeypatch.setattr(backends, "_ROUNDS", 1)
    monkeypatch.setattr(backends, "run_chunk", always_deadly)
    with pytest.raises(InputError, match=r"--backend loky: workers keep dying .*14 clips are left") as caught:
        extract(loky, progress=False)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(backends, "run_chunk", deadly)
    check(extract(loky, progress=False), single)
    assert (tmp_path / "died").exists()
    # What the dead one had written was adopted or done again; nothing stands there twice.
    listed = {entry.name for entry in read_manifest(tmp_path / "x").files}
    assert {path.name for path in (tmp_path / "x").iterdir()} == listed | {"manifest.json"}


@contextmanager
def started_cluster(folder: Path, workers: int) -> Iterator[str]:
    """A scheduler and workers of Dask, started as anybody would start them; the scheduler's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    worker = [
        *dask,
        "worker",
        address,
        "--nthreads",
        "1",
        "--no-dashboard",
        "--local-directory",
        str(folder),
    ]
    scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    commands = [scheduler, *[worker] * workers]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with ExitStack() as stack:
        for command in commands:
            process = stack.enter_context(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
        yield address


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Two workers."""
    with started_cluster(tmp_path / "dask", 2) as address:
        yield address


def test_one_worker_of_dask_is_a_cluster(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joblib runs jobs for a single worker itself, in the process that wanted them done elsewhere."""
    monkeypatch.setattr(backends, "run_chunk", elsewhere)
    with started_cluster(tmp_path / "dask", 1) as address:
        extract(settings(made, tmp_path / "out", backend="dask", scheduler=address), progress=False)
    ran_in = {path.name for path in tmp_path.glob("ran-in-*")}
    assert ran_in
    assert f"ran-in-{os.getpid()}" not in ran_in


def test_a_cluster_of_dask(
    made: Path, single: str, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made.parent)  # the workers have another working directory
    monkeypatch.setattr(backends, "run_chunk", deadly)
    out = Path(os.path.relpath(tmp_path / "out.h5"))
    dask = settings(Path(made.name), out, backend="dask", scheduler=cluster)
    check(extract(dask, progress=False), single)
    assert (tmp_path / "died").exists()
    assert not (tmp_path / "out.h5.parts").exists()
    with distributed.Client(cluster) as client:
        assert len(client.scheduler_info()["workers"]) > 0  # it goes on without us


def test_other_workers_must_extract_alike(made: Path, tmp_path: Path) -> None:
    ours = settings(made, tmp_path / "x", workers=0)
    job = Job(ours, ("cpu",), 1, "test")
    recipe = {**backends.Here(ours).describe().recipe, "dtype": "float32"}
    with pytest.raises(
        InputError, match=r"a worker on .* extracts otherwise \(dtype: 'float32' against 'float16'\)"
    ):
        run_chunk(job, Destination(tmp_path, recipe, ("jump", "run")), [])


@pytest.mark.parametrize(
    ("backend", "package"), [("dask", "distributed"), ("ray", "ray"), ("spark", "joblibspark")]
)
def test_a_missing_package_is_named(
    backend: str, package: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package} is not installed: pip install 'harfeat\[{backend}\]'"):
        extract(settings(made, tmp_path / "x.h5", backend=backend), progress=False)
    assert not any(tmp_path.iterdir())


def test_an_address_that_is_none_is_told(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--scheduler nonsense://x: no Dask cluster answers") as caught:
        extract(settings(made, tmp_path / "x.h5", backend="dask", scheduler="nonsense://x"), progress=False)
    assert "\n" not in str(caught.value)
