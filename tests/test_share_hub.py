"""Push and pull by hf://, against a stand-in for the Hub that speaks its HTTP interface."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from caches import made_up_cache
from servers import Hub, Run, hub_server, on_hub
from small_runs import small_run


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with hub_server() as server:
        yield server
        assert server.unknown == []


@pytest.fixture(scope="module")
def harfeat(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with on_hub(hub, "harfeat", tmp_path_factory.mktemp("hub")) as run:
        yield run


@pytest.fixture(scope="module")
def harvib(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with on_hub(hub, "harvib", tmp_path_factory.mktemp("hub-of-models")) as run:
        yield run


def test_a_cache_travels_by_the_hub(hub: Hub, harfeat: Run, tmp_path: Path) -> None:
    packed = made_up_cache(tmp_path / "actions.h5")
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    url, commits = "hf://datasets/team/actions", len(hub.commits)
    done = harfeat("push", packed, url)
    assert done.returncode == 0, done.stderr
    assert not hub.private["team/actions"]
    files = hub.repos["team/actions"]["main"]
    assert set(files) == {"actions.h5", "manifest.json", "README.md", "croissant.json"}
    assert files["actions.h5"] == ("lfs", packed.read_bytes())
    assert hub.uploads.count(digest) == 1
    assert len(hub.commits) == commits + 1, "one commit: readers see all of it or nothing"
    again = harfeat("push", packed, url)
    assert "sent 0 files, 0 bytes" in again.stdout
    assert hub.uploads.count(digest) == 1

    pulled = harfeat("pull", url)
    assert pulled.returncode == 0, pulled.stderr
    assert Path(pulled.stdout.splitlines()[-1]).read_bytes() == packed.read_bytes()
    assert hub.cdn[digest] == 1
    assert "fetched 0 files" in harfeat("pull", url).stdout
    assert hub.cdn[digest] == 1
    assert not hub.leaked, "the token stays with the Hub"


def test_a_folder_and_a_branch_of_their_own(hub: Hub, harfeat: Run, tmp_path: Path) -> None:
    first, second = made_up_cache(tmp_path / "a.h5"), made_up_cache(tmp_path / "b.h5", recipe="other")
    assert harfeat("push", first, "hf://datasets/team/x", "--private").returncode == 0
    assert hub.private["team/x"]
    done = harfeat("push", second, "hf://datasets/team/x/sub/b@next")
    assert done.returncode == 0, done.stderr
    assert "a.h5" in hub.repos["team/x"]["main"]
    assert not any(path.startswith("sub/") for path in hub.repos["team/x"]["main"])
    assert hub.repos["team/x"]["next"]["sub/b/b.h5"] == ("lfs", second.read_bytes())
    pulled = harfeat("pull", "hf://datasets/team/x@next/sub/b", "--to", tmp_path / "mine")
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "mine" / "b.h5").read_bytes() == second.read_bytes()
    # Another cache in the same place is refused, then replaced in one commit.
    refused = harfeat("push", second, "hf://datasets/team/x")
    assert refused.returncode == 2
    assert "holds another cache" in refused.stderr
    assert harfeat("push", second, "hf://datasets/team/x", "--replace").returncode == 0
    assert {path for path in hub.repos["team/x"]["main"] if path.endswith(".h5")} == {"b.h5"}
    listed = json.loads(hub.repos["team/x"]["main"]["manifest.json"][1])["files"]
    assert [entry["name"] for entry in listed] == ["b.h5"]


def test_errors_of_the_hub_are_one_line(hub: Hub, harfeat: Run, tmp_path: Path) -> None:
    packed = made_up_cache(tmp_path / "errors.h5", seed=9)
    for arguments, token in (
        (("push", packed, "hf://datasets/team/errors"), "wrong"),
        (("pull", "hf://datasets/team/nothing"), hub.token),
    ):
        done = harfeat(*arguments, token=token)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr.splitlines()[-1].startswith("harfeat: hf://datasets/team/")
    assert "team/errors" not in hub.repos
    hub.fail_uploads_after = 0
    refused = harfeat("push", packed, "hf://datasets/team/errors")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert hub.repos["team/errors"]["main"] == {}, "no manifest where a file is missing"
    hub.fail_uploads_after = 10**9
    assert harfeat("push", packed, "hf://datasets/team/errors").returncode == 0


def test_a_model_travels_by_a_model_repository(hub: Hub, harvib: Run, tmp_path: Path) -> None:
    run = small_run(tmp_path)
    digest = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    commits = len(hub.commits)
    done = harvib("push", "--model", run, "hf://team/actions", "--private", "--license", "mit")
    assert done.returncode == 0, done.stderr
    assert hub.private["models/team/actions"]
    assert "team/actions" not in hub.repos or "model.safetensors" not in hub.repos["team/actions"]["main"]
    files = hub.repos["models/team/actions"]["main"]
    texts = {"config.json", "report.json", "metrics.csv", "manifest.json", "README.md"}
    assert set(files) == texts | {"model.safetensors"}
    assert files["model.safetensors"] == ("lfs", (run / "model.safetensors").read_bytes())
    assert hub.commits[commits:] == ["Model pushed by harvib"]
    again = harvib("push", "--model", run, "hf://models/team/actions/", "--license", "mit")
    assert "sent 0 files, 0 bytes" in again.stdout
    assert hub.uploads.count(digest) == 1

    pulled = harvib("pull", "hf://team/actions")
    assert pulled.returncode == 0, pulled.stderr
    mine = Path(pulled.stdout.splitlines()[-1])
    assert (mine / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert harvib("pull", "hf://models/team/actions").stdout.splitlines()[-1] == str(mine), (
        "one place, two spellings"
    )
    assert hub.cdn[digest] == 1
    assert not hub.leaked, "the token stays with the Hub"


def test_models_and_data_sets_of_one_name_do_not_meet(hub: Hub, harvib: Run, harfeat: Run, tmp_path: Path) -> None:
    run = small_run(tmp_path, "plain", plain_epochs=1)
    assert harfeat("push", tmp_path / "cache.h5", "hf://datasets/team/both").returncode == 0
    done = harvib("push", "--model", run, "hf://team/both@next/nets/a")
    assert done.returncode == 0, done.stderr
    assert "nets/a/model.safetensors" in hub.repos["models/team/both"]["next"]
    assert harvib("pull", "hf://team/both/nets/a@next", "--to", tmp_path / "mine").returncode == 0
    for command, arguments, spelled in (
        (harfeat, ("pull", "hf://team/both"), "hf://datasets/team/both"),
        (harvib, ("pull", "hf://datasets/team/both"), "hf://team/both"),
        (harvib, ("push", "--model", run, "hf://datasets/team/both"), "hf://team/both"),
    ):
        refused = command(*arguments)
        assert refused.returncode == 2
        assert refused.stderr.splitlines()[-1].endswith(f": {spelled}")


def test_errors_of_the_hub_are_one_line_for_models_too(hub: Hub, harvib: Run, tmp_path: Path) -> None:
    run = small_run(tmp_path, "plain", plain_epochs=1, seed=3)
    for arguments, token in (
        (("push", "--model", run, "hf://team/errors-2"), "wrong"),
        (("pull", "hf://team/nothing"), hub.token),
    ):
        done = harvib(*arguments, token=token)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("harvib: hf://team/")
    assert "models/team/errors-2" not in hub.repos
    hub.fail_uploads_after = 0
    refused = harvib("push", "--model", run, "hf://team/errors-2")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert hub.repos["models/team/errors-2"]["main"] == {}, "no manifest where a file is missing"
    hub.fail_uploads_after = 10**9
    assert harvib("push", "--model", run, "hf://team/errors-2").returncode == 0


def test_a_hub_out_of_reach_is_one_line(tmp_path: Path) -> None:
    code = """
from harfeat.cache.manifest import FileEntry
from harfeat.errors import InputError
from harfeat.share.hub import HubRemote
try:
    HubRemote.of("hf://datasets/a/b").present([FileEntry("x.h5", 1, "0" * 64, "cache", 1)])
except InputError as error:
    print(error)
"""
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HOME": str(tmp_path), "no_proxy": "*"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.startswith("hf://datasets/a/b: ")
    assert len(done.stdout.splitlines()) == 1
