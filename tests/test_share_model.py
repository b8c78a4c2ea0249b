"""`harvib push` and `pull`: the model that arrives is the one that was sent, and works; nothing else travels."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner, Result
from frames import TINY, made_up_frames, weights_file
from servers import file_server, s3_server
from shared_models import MANIFEST, change_json, measured
from small_runs import QUICK, assert_refused, small_run

from harfeat.share import fetch as fetching
from harfeat.share.fetch import TransferError
from harfeat.share.store import StoreRemote
from harvib import fusion, methods, videos
from harvib.cli import main
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.quantize.run import quantize_run
from harvib.rundir import RunFolder
from harvib.settings import BackboneSettings, TrainSettings
from harvib.share import pull, push
from harvib.source import Source

CPU = torch.device("cpu")
BRIEF: dict[str, Any] = {**QUICK, "plain_epochs": 2, "vib_epochs": 4, "finetune_epochs": 1}


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def files_of(folder: Path) -> dict[str, bytes]:
    """What a person sees in a folder, without the texts for people."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    shown = {name: path for name, path in found.items() if not name.startswith(".") and "/." not in name}
    return {name: path.read_bytes() for name, path in shown.items() if name not in (MANIFEST, "README.md")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run`, pruned, and `plain`, both on cache.h5; tests must not change it."""
    folder = tmp_path_factory.mktemp("made")
    small_run(folder)
    small_run(folder, "plain", "plain", plain_epochs=1)
    return folder


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run`, the fusion of rgb.h5 and flow.h5."""
    folder = tmp_path_factory.mktemp("fused")
    for stream in ("rgb", "flow"):
        made_up_cache(folder / f"{stream}.h5", stream=stream, recipe=stream, seed=len(stream), dim=8)
    settings = TrainSettings(**{**BRIEF, "hidden": 4})
    sources = [Source(folder / "rgb.h5"), Source(folder / "flow.h5")]
    fusion.train(sources, TEST_SPLIT, settings, folder / "run", device=CPU)
    return folder


@pytest.fixture(scope="module")
def on_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run`, on frames.h5, with a backbone."""
    folder = tmp_path_factory.mktemp("videos")
    made_up_frames(folder / "frames.h5")
    chosen = BackboneSettings(TINY, str(weights_file(folder / "weights.safetensors")), 1e-4)
    settings = TrainSettings(**{**BRIEF, "hidden": 4, "batch": 4, "validation": 0.3})
    videos.train(folder / "frames.h5", TEST_SPLIT, settings, chosen, folder / "run", CPU)
    return folder


@pytest.fixture(scope="module")
def latency(made: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What bench.json of the pruned run holds."""
    run = shutil.copytree(made / "run", tmp_path_factory.mktemp("bench") / "run")
    return measured(run)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    """The pruned run, to be changed."""
    return shutil.copytree(made / "run", tmp_path / "my" / "run")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetching, "_LONGEST_PAUSE", 0.01)
    monkeypatch.setenv("HARFEAT_CACHE", str(tmp_path / "user-cache"))


def test_a_model_comes_back_and_works(run: Path, made: Path, latency: bytes, tmp_path: Path) -> None:
    (run / "bench.json").write_bytes(latency)
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    pushed = push(run, str(shared))
    final = {"config.json", "report.json", "metrics.csv", "model.safetensors", "bench.json"}
    assert set(files_of(shared)) == final
    assert {path.name for path in shared.iterdir()} == final | {MANIFEST, "README.md"}
    assert (pushed.sent_files, pushed.sent_bytes) == (5, sum(map(len, files_of(shared).values())))
    pulled = pull(str(shared), mine)
    assert pulled.path == mine
    assert files_of(mine) == files_of(shared)
    for name in ("model.safetensors", "metrics.csv", "report.json", "config.json"):
        assert (mine / name).read_bytes() == (run / name).read_bytes(), "it holds no path, so nothing was changed"

    results = [evaluate_run(folder, made / "cache.h5", TEST_SPLIT, "test", CPU) for folder in (run, mine)]
    assert results[0] == results[1]
    for folder, out in ((run, tmp_path / "a.safetensors"), (mine, tmp_path / "b.safetensors")):
        assert command("export", "--model", folder, "--out", out).exit_code == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert command("report", mine).exit_code == 0
    # The same command that made the run finds it finished.
    settings = TrainSettings(**QUICK)
    assert methods.train(made / "cache.h5", TEST_SPLIT, settings, mine, device=CPU) == RunFolder(run).report()


def test_everything_brings_the_plain_and_the_masked_model(run: Path, made: Path, tmp_path: Path) -> None:
    push(run, str(tmp_path / "shared"), everything=True)
    mine = pull(str(tmp_path / "shared")).path
    assert mine.parent == tmp_path / "user-cache"
    assert {path.name for path in mine.glob("*.safetensors")} == {
        *("model.safetensors", "plain.safetensors", "masked.safetensors")
    }
    assert json.loads(measured(mine))["plain"]["parameters"] == 740
    settings = TrainSettings(**BRIEF)
    methods.train(made / "cache.h5", TEST_SPLIT, settings, tmp_path / "next", mine, CPU)
    assert (tmp_path / "next" / "plain.safetensors").read_bytes() == (run / "plain.safetensors").read_bytes()
    # Without it they leave the address again.
    push(run, str(tmp_path / "shared"))
    assert not (tmp_path / "shared" / "plain.safetensors").exists()
    pull(str(tmp_path / "shared"))
    assert (mine / "plain.safetensors").exists(), "the same model: what else is there may stay"


def test_a_plain_run_travels_too(made: Path, tmp_path: Path) -> None:
    push(made / "plain", str(tmp_path / "shared"))
    mine = pull(str(tmp_path / "shared")).path
    found = evaluate_run(mine, made / "cache.h5", TEST_SPLIT, "test", CPU)
    assert found["accuracy"] == RunFolder(made / "plain").report()["plain"]["accuracy"]["test"]


def test_only_what_harvib_knows_is_sent(run: Path, tmp_path: Path) -> None:
    for name in ("last/state.safetensors", "maps/rgb.rows", "tensorboard/events.out", ".secret", "notes.txt"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("private")
    for name in ("model.pt", "small.c", "evil.py", "theirs.onnx", "odd name!.onnx", "other.safetensors"):
        (run / name).write_text("private")
    notes: list[str] = []
    push(run, str(tmp_path / "shared"), everything=True, tell=notes.append)
    models = {f"{name}.safetensors" for name in ("model", "plain", "masked")}
    assert set(files_of(tmp_path / "shared")) == models | {"config.json", "report.json", "metrics.csv"}
    assert [note.partition(": ")[0] for note in notes] == [str(run / "odd name!.onnx"), str(run / "theirs.onnx")]


def test_no_path_of_this_machine_leaves(
    made: Path, latency: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home" / "jörg & co"
    monkeypatch.setenv("HOME", str(home))
    shutil.copytree(made, home / "work")
    run = home / "work" / "next"
    settings = TrainSettings(**{**BRIEF, "distill": 0.5})
    teacher, cache = home / "work" / "plain", home / "work" / "cache.h5"
    methods.train(cache, TEST_SPLIT, settings, run, home / "work" / "run", CPU, teacher=teacher)
    assert command("report", run).exit_code == 0
    push(run, str(tmp_path / "shared"))
    assert "<code>harvib bench --model RUN</code>" in (tmp_path / "shared" / "report.html").read_text()
    (run / "bench.json").write_bytes(latency)
    change_json(run / "bench.json", lambda value: value.update(command=f"harvib bench --model '{run}' --steps 5"))
    assert str(home) in (run / "report.html").read_text().replace("&amp;", "&")
    push(run, str(tmp_path / "shared"))
    for path in (tmp_path / "shared").iterdir():
        content = path.read_bytes()
        for form in (str(tmp_path), "jörg", "j\\u00f6rg", "j&#246;rg"):
            assert form.encode() not in content, path.name
    config = json.loads((tmp_path / "shared" / "config.json").read_text())
    assert (config["init"], config["teacher"]) == ("run", "plain")
    assert json.loads((run / "config.json").read_text())["init"] == str(home / "work" / "run")
    assert config["settings"] == json.loads((run / "config.json").read_text())["settings"]
    told = json.loads((tmp_path / "shared" / "bench.json").read_text())["command"]
    assert told == "harvib bench --model 'next' --steps 5"
    pull(str(tmp_path / "shared"), tmp_path / "mine")
    assert not (tmp_path / "mine" / "report.html").exists(), "a stranger's page may hold programs"
    # What cannot be changed is not sent: the fingerprint is a hash of the recipe.
    change_json(run / "config.json", lambda value: value["recipe"].update(source=f"{home}/films"))
    with pytest.raises(InputError, match=r"config\.json: names .*, a folder of this machine, so nothing is sent"):
        push(run, str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_what_is_there_is_not_transferred_again(run: Path, latency: bytes, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    push(run, str(shared), everything=True)
    before = {path: path.stat().st_mtime_ns for path in shared.glob("*.safetensors")}
    assert push(run, str(shared), everything=True).sent_files == 0
    assert {path: path.stat().st_mtime_ns for path in shared.glob("*.safetensors")} == before
    pull(str(shared), tmp_path / "mine")
    with file_server(shared) as server:
        shutil.copytree(tmp_path / "mine", tmp_path / "other", ignore=shutil.ignore_patterns(".*"))
        assert pull(server.url, tmp_path / "other").fetched_files == 0
        assert {name for name, _ in server.requests} <= {MANIFEST, "README.md"}
    (run / "bench.json").write_bytes(latency)
    again = push(run, str(shared), everything=True)
    assert again.sent_files == 1, "a figure more is no other model"
    assert pull(str(shared), tmp_path / "mine").fetched_files == 1


@pytest.mark.parametrize("store", ["local", "s3"])
def test_the_manifest_comes_last_and_a_broken_push_resumes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, store: str
) -> None:
    if store == "s3":
        request.getfixturevalue("s3")
    url, send = str(tmp_path / "shared") if store == "local" else "s3://team/models/a", StoreRemote._send
    sent: list[str] = []

    def failing(self: StoreRemote, item: Any, *rest: Any) -> None:
        if len(sent) == 3:
            raise TransferError("the line is cut")
        sent.append(item.entry.name)
        send(self, item, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(StoreRemote, "_send", failing)
        with pytest.raises(InputError, match="the line is cut"):
            push(run, url, everything=True, workers=1)
    with pytest.raises(InputError, match="the model there is not complete"):
        pull(url, tmp_path / "mine")
    assert push(run, url, everything=True).sent_files == 6 - 3
    assert push(run, url, everything=True).sent_files == 0
    mine = pull(url, tmp_path / "mine").path
    for name in ("model.safetensors", "plain.safetensors", "masked.safetensors"):
        assert (mine / name).read_bytes() == (run / name).read_bytes()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with s3_server(monkeypatch) as client:
        yield client


def test_broken_connections_are_continued_where_they_broke(run: Path, tmp_path: Path) -> None:
    push(run, str(tmp_path / "shared"), everything=True)
    content = files_of(tmp_path / "shared")
    with file_server(tmp_path / "shared") as server:
        server.drop_after, server.drops = 1_000, 8
        pull(server.url, tmp_path / "mine")
        assert server.drops == 0
        for name in content:
            assert server.sent[name] == len(content[name]), "no byte came twice"
    assert files_of(tmp_path / "mine") == content


def test_a_killed_pull_goes_on_where_it_was(run: Path, made: Path, tmp_path: Path) -> None:
    push(run, str(tmp_path / "shared"))
    with file_server(tmp_path / "shared") as server:
        whole = files_of(tmp_path / "shared")
        server.statuses = {"model.safetensors": [-503]}
        code = "from harfeat.share import fetch; fetch._LONGEST_PAUSE = 60; from harvib.cli import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "pull", server.url, "--to", str(tmp_path / "mine")],
            stderr=subprocess.DEVNULL,
        )
        stage, deadline = tmp_path / "mine" / ".harfeat-pull.new", time.monotonic() + 120
        while time.monotonic() < deadline and set(files_of(stage)) != set(whole) - {"model.safetensors"}:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert files_of(tmp_path / "mine") == {}, "what is not whole has no name"
        server.statuses = {}
        server.sent.clear()
        assert pull(server.url, tmp_path / "mine").fetched_files == 1
        assert server.sent["model.safetensors"] == len(whole["model.safetensors"])
        assert server.sent["config.json"] == 0
    assert evaluate_run(tmp_path / "mine", made / "cache.h5", None, "test", CPU)["clips"] == 40


def test_ctrl_c_ends_a_push_and_the_same_command_goes_on(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = StoreRemote._send
    sent: list[str] = []

    def interrupted(self: StoreRemote, item: Any, *rest: Any) -> None:
        if len(sent) == 2:
            raise KeyboardInterrupt
        sent.append(item.entry.name)
        send(self, item, *rest)

    arguments = ("push", "--model", run, tmp_path / "shared", "--workers", 1)
    with monkeypatch.context() as patch:
        patch.setattr(StoreRemote, "_send", interrupted)
        done = command(*arguments)
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == "harvib: interrupted; the same command resumes"
    assert "4 files, " in (again := command(*arguments)).stdout
    assert "sent 2 files" in again.stdout
    assert not [*(tmp_path / "shared").glob(".*")]


def test_another_model_is_replaced_only_when_told_to(
    run: Path, made: Path, fused: Path, latency: bytes, tmp_path: Path
) -> None:
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    push(run, str(shared), everything=True)
    pull(str(shared), mine)
    with pytest.raises(InputError, match=r"holds another model \(content .*give --replace"):
        push(made / "plain", str(shared))
    assert (shared / "masked.safetensors").exists()
    push(fused / "run", str(shared), replace=True)
    kept = {"config.json", "report.json", "metrics.csv", "model.safetensors"}
    streams = {f"{stream}/{name}" for stream in ("rgb", "flow") for name in kept}
    assert set(files_of(shared)) == {"config.json", "report.json"} | streams
    (mine / "bench.json").write_bytes(latency)
    # Whoever had pulled the old one follows, and nothing of it is left to be taken for the new one's.
    assert pull(str(shared), mine).path == mine
    assert files_of(mine) == files_of(shared)
    push(run, str(shared), replace=True)
    pull(str(shared), mine)
    assert files_of(mine) == files_of(shared)
    with pytest.raises(InputError, match="holds a model from elsewhere"):
        pull(str(shared), Path(pull_of(made / "plain", tmp_path / "another")))


def pull_of(run: Path, shared: Path) -> Path:
    push(run, str(shared))
    return pull(str(shared)).path


def test_a_replacement_that_broke_off_still_removes_what_was_there(
    run: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    push(run, str(shared), everything=True)

    def failing(self: StoreRemote, item: Any, *rest: Any) -> None:
        raise TransferError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(StoreRemote, "_send", failing)
        with pytest.raises(InputError, match="the line is cut"):
            push(made / "plain", str(shared), replace=True)
    with pytest.raises(InputError, match="not complete"):
        pull(str(shared), tmp_path / "mine")
    push(made / "plain", str(shared))
    assert set(files_of(shared)) == {"config.json", "report.json", "metrics.csv", "model.safetensors"}


def test_push_writes_over_nothing_that_it_did_not_send(run: Path, made: Path, tmp_path: Path) -> None:
    other = shutil.copytree(made / "plain", tmp_path / "other")
    before = files_of(other)
    with pytest.raises(InputError, match=r"other: holds a config\.json and no manifest\.json.*give --replace"):
        push(run, str(other))
    with pytest.raises(InputError, match="is the run folder itself"):
        push(run, f"{run}/../run", replace=True)
    assert files_of(other) == before
    push(run, str(other), replace=True)
    assert (pull(str(other)).path / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_what_was_pulled_is_pushed_on(run: Path, tmp_path: Path) -> None:
    push(run, str(tmp_path / "a"), everything=True)
    mine = pull(str(tmp_path / "a")).path
    push(mine, str(tmp_path / "b"), everything=True)
    assert files_of(tmp_path / "b") == files_of(tmp_path / "a")
    assert (tmp_path / "b" / MANIFEST).read_bytes() == (tmp_path / "a" / MANIFEST).read_bytes()


def test_what_a_broken_pull_left_of_another_model_does_not_come_along(
    run: Path, fused: Path, tmp_path: Path
) -> None:
    shared, mine = tmp_path / "shared", tmp_path / "mine"
    push(fused / "run", str(shared))
    (shared / "rgb" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="not there"):
        pull(str(shared), mine)
    assert [*mine.glob(".harfeat-pull.new/flow/*")]
    push(run, str(shared), replace=True)
    pull(str(shared), mine)
    assert files_of(mine) == files_of(shared)
    assert {path.name for path in mine.iterdir() if path.is_dir()} == set()


def test_pull_writes_over_nothing_that_is_not_its_own(run: Path, made: Path, tmp_path: Path) -> None:
    push(run, str(tmp_path / "shared"))
    mine = shutil.copytree(made / "plain", tmp_path / "mine")
    before = files_of(mine)
    with pytest.raises(InputError, match=r"mine: holds a \S+ that is not from there: name another folder"):
        pull(str(tmp_path / "shared"), mine)
    assert files_of(mine) == before
    other = tmp_path / "other"
    (other / "theirs").mkdir(parents=True)
    shutil.copy(run / "masked.safetensors", other)
    with pytest.raises(InputError, match=r"holds a masked\.safetensors that is not from there"):
        pull(str(tmp_path / "shared"), other)
    # Runs beside it are nobody's business.
    (other / "masked.safetensors").unlink()
    shutil.copytree(made / "plain", other / "plain")
    pull(str(tmp_path / "shared"), other)
    push(made / "plain", str(tmp_path / "shared"), replace=True)
    pull(str(tmp_path / "shared"), other)
    assert files_of(other / "plain") == before


def test_a_full_disk_is_told_before_anything_is_fetched(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(run, str(tmp_path / "shared"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    done = command("pull", tmp_path / "shared", "--to", tmp_path / "mine")
    assert done.exit_code == 2
    assert "1,000 are free: make room" in done.stderr.splitlines()[-1]
    assert files_of(tmp_path / "mine") == {}


def test_a_fused_run_travels(fused: Path, tmp_path: Path) -> None:
    push(fused / "run", str(tmp_path / "shared"), everything=True)
    mine = pull(str(tmp_path / "shared")).path
    caches = [fused / "flow.h5", fused / "rgb.h5"]
    results = [evaluate_run(folder, caches, TEST_SPLIT, "test", CPU) for folder in (fused / "run", mine)]
    assert results[0] == results[1]
    assert "ratio" in json.loads(measured(mine))
    assert command("report", mine).exit_code == 0
    card = (tmp_path / "shared" / "README.md").read_text()
    assert "Stream flow:" in card
    assert "2 streams" in card


def test_a_run_on_videos_travels_with_its_backbone(on_videos: Path, tmp_path: Path) -> None:
    push(on_videos / "run", str(tmp_path / "shared"))
    mine = pull(str(tmp_path / "shared")).path
    assert (mine / "backbone.safetensors").read_bytes() == (
        on_videos / "run" / "backbone.safetensors"
    ).read_bytes()
    assert not [*mine.glob("*-block.safetensors")]
    frames = on_videos / "frames.h5"
    results = [
        evaluate_run(folder, frames, TEST_SPLIT, "test", CPU, videos=True) for folder in (on_videos / "run", mine)
    ]
    assert results[0] == results[1]


def test_quantised_files_travel_with_their_figures(run: Path, made: Path, tmp_path: Path) -> None:
    quantize_run(run, made / "cache.h5", ["int8-weights"])
    push(run, str(tmp_path / "shared"))
    mine = pull(str(tmp_path / "shared")).path
    result = evaluate_run(mine / "int8-weights.onnx", made / "cache.h5", TEST_SPLIT, "test", CPU)
    told = json.loads((mine / "quantize.json").read_text())["schemes"]["int8-weights"]
    assert result["accuracy"] == told["accuracy"]["test"]
    assert "| int8-weights.onnx |" in (mine / "README.md").read_text()
    # torch's exporter notes where in the machine's Python a node came from.
    traced = onnx.load(run / "int8-weights.onnx")
    traced.graph.node[0].doc_string = f"File {sys.prefix}/lib/python3/site-packages/x.py, line 3"
    onnx.save(traced, run / "traced.onnx")
    with pytest.raises(InputError, match=r"traced\.onnx: names .*, a folder of this machine, so nothing is sent"):
        push(run, str(tmp_path / "other"))
    (run / "traced.onnx").unlink()
    # Figures of an earlier model are no figures of this one.
    change_json(run / "quantize.json", lambda value: value.update(model="0" * 64))
    notes: list[str] = []
    push(run, str(tmp_path / "other"), tell=notes.append)
    assert "it is of an earlier model" in notes[0]
    assert not [*(tmp_path / "other").glob("*.onnx"), *(tmp_path / "other").glob("quantize.json")]


def test_onnx_is_needed_by_nobody_who_does_not_use_it(
    run: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_run(run, made / "cache.h5", ["int8-weights"])
    push(run, str(tmp_path / "shared"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    mine = pull(str(tmp_path / "shared")).path
    assert (mine / "int8-weights.onnx").read_bytes() == (run / "int8-weights.onnx").read_bytes()
    notes: list[str] = []
    push(run, str(tmp_path / "other"), tell=notes.append)
    assert "int8-weights.onnx: left out: ONNX files need onnx and onnxruntime" in notes[0]


def test_only_finished_runs_are_pushed(run: Path, fused: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    report = json.loads((run / "report.json").read_text())
    told = {"interrupted": {"stage": "vib", "epoch": 2, "of": 20}}
    (run / "report.json").write_text(json.dumps(report | told))
    assert_refused(
        command("push", "--model", run, shared), "interrupted before its final model; repeat its command"
    )
    (run / "report.json").unlink()
    assert_refused(command("push", "--model", run, shared), "no report.json; the run is not finished")
    (run / "config.json").unlink()
    assert_refused(command("push", "--model", run, shared), "no run folder (no config.json in it)")
    streams = shutil.copytree(fused / "run", tmp_path / "fused")
    (streams / "flow" / "report.json").unlink()
    assert_refused(command("push", "--model", streams, shared), f"{streams / 'flow'}: no report.json")
    assert not shared.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["push", "--model", "{run}", "http://127.0.0.1:1/x"], "can only be pulled from"),
        (["push", "--model", "{run}", "gopher://x/y"], "gopher"),
        (["push", "--model", "{tmp}/none", "{tmp}/shared"], "none: no such run folder"),
        (["push", "--model", "{run}/model.safetensors", "{tmp}/shared"], "no such run folder"),
        (["push", "--model", "{run}", "{tmp}/shared", "--private"], "--private is for hf:// only"),
        (["push", "--model", "{run}", "{tmp}/shared", "--workers", "0"], "at least one is needed"),
        (
            ["push", "--model", "{run}", "{tmp}/shared", "--license", "my own"],
            "--license my own: say an identifier",
        ),
        (["push", "--model", "{run}", ""], "the address is empty"),
        (["push", "--model", "{run}", "hf://datasets/a/b/c@d"], "expected hf://ORG/NAME, .*: hf://a/b/c@d"),
        (["push", "--model", "{run}"], "Missing argument 'URL'"),
        (["pull", "hf://datasets/a/b"], "names no model repository; expected hf://ORG/NAME, .*: hf://a/b"),
        (["pull", "hf://spaces/a/b"], "names no model repository"),
        (["pull", "hf://datasets/b"], "expected hf://ORG/NAME"),
        (["pull", "hf://models/b"], "expected hf://ORG/NAME"),
        (["pull", "hf://a/b@x/c@y"], "expected hf://ORG/NAME"),
        (["pull", "http://127.0.0.1:1/model.safetensors"], "a single file, whose content nothing vouches for"),
        (["pull", "{tmp}/nowhere"], "no manifest.json there: give a folder that `harvib push` wrote"),
        (["pull", ""], "the address is empty"),
    ],
)
def test_wrong_use_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*(text.format(tmp=tmp_path, run=run) for text in arguments))
    assert done.exit_code == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("harvib: ")
    begin, _, end = expected.partition(".*")
    assert begin in line
    assert line.endswith(end) or end in line
    assert not (tmp_path / "shared").exists() or not (tmp_path / "shared" / MANIFEST).exists()


def test_caches_and_models_are_not_mixed_up(run: Path, made: Path, tmp_path: Path) -> None:
    from harfeat.cli import main as harfeat  # noqa: PLC0415

    model, cache = str(tmp_path / "model"), str(tmp_path / "cache")
    push(run, model)
    assert CliRunner().invoke(harfeat, ["push", str(made / "cache.h5"), cache]).exit_code == 0
    before = files_of(tmp_path / "cache")
    for program, arguments, expected in (
        (harfeat, ["pull", model], f"{model}: holds a model, no cache: use `harvib pull {model}`"),
        (harfeat, ["push", str(made / "cache.h5"), model, "--replace"], "holds a model, no cache"),
        (main, ["pull", cache], f"{cache}: holds a cache, no model: use `harfeat pull {cache}`"),
        (main, ["push", "--model", str(run), cache, "--replace"], "or push to another address"),
        (
            harfeat,
            ["push", str(made / "cache.h5"), "hf://a/b"],
            "names no data set; expected hf://datasets/ORG/NAME",
        ),
    ):
        done = CliRunner().invoke(program, arguments)
        assert done.exit_code == 2
        assert expected in done.stderr.splitlines()[-1]
    assert files_of(tmp_path / "cache") == before


def test_the_commands_say_what_they_did(run: Path, tmp_path: Path) -> None:
    pushed = command("push", "--model", run, tmp_path / "it's shared")
    assert pushed.exit_code == 0, pushed.stderr
    assert "4 files, " in pushed.stdout
    words = shlex.split(pushed.stdout.splitlines()[-1].partition(": ")[2])
    assert words == ["harvib", "pull", str(tmp_path / "it's shared")]
    pulled = command(*words[1:])
    assert pulled.exit_code == 0, pulled.stderr
    path = Path(pulled.stdout.splitlines()[-1])
    assert path.is_relative_to(tmp_path / "user-cache")
    assert files_of(path) == files_of(tmp_path / "it's shared")
    assert "fetched 0 files, 0 bytes" in command(*words[1:]).stdout
