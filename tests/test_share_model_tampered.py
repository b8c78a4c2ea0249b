"""Shared models that somebody damaged or forged, also with hashes made anew: refused in one line, none is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from click.testing import CliRunner
from frames import TINY, made_up_frames, weights_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_models import MANIFEST, change_json, change_tensors, measured, resigned, set_fields
from small_runs import QUICK, small_run

from harvib import fusion, videos
from harvib.cli import main
from harvib.errors import InputError
from harvib.quantize.run import quantize_run
from harvib.settings import BackboneSettings, TrainSettings
from harvib.share import pull, push
from harvib.share.manifest import MODELS, parse
from harvib.share.names import travels

CPU = torch.device("cpu")
SHORT: dict[str, Any] = {**QUICK, "plain_epochs": 1, "vib_epochs": 2, "finetune_epochs": 1, "hidden": 4}


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Shared folders: of a run with all that can be in it, of a fused run, and of one on videos."""
    folder = tmp_path_factory.mktemp("pushed")
    run = small_run(folder)
    measured(run)
    quantize_run(run, folder / "cache.h5", ["int8-weights"])
    for stream in ("rgb", "flow"):
        made_up_cache(folder / f"{stream}.h5", stream=stream, recipe=stream)
    caches = [folder / "rgb.h5", folder / "flow.h5"]
    fusion.train(caches, TEST_SPLIT, TrainSettings(**SHORT), folder / "fused", device=CPU)
    made_up_frames(folder / "frames.h5")
    chosen = BackboneSettings(TINY, str(weights_file(folder / "weights.safetensors")), 1e-4)
    asked = TrainSettings(**{**SHORT, "validation": 0.3})
    videos.train(folder / "frames.h5", TEST_SPLIT, asked, chosen, folder / "videos", CPU)
    for name in ("run", "fused", "videos"):
        push(folder / name, str(folder / "shared" / name), everything=True)
    return {name: folder / "shared" / name for name in ("run", "fused", "videos")}


@pytest.fixture
def shared(pushed: dict[str, Path], tmp_path: Path) -> Path:
    """The first of them, to be changed."""
    return shutil.copytree(pushed["run"], tmp_path / "in" / "shared")


def assert_pull_refused(shared: Path, expected: str) -> None:
    """One line and exit code 2; nothing of a run is left, and nothing beside the folder."""
    out = shared.parents[1] / "out"
    done = CliRunner().invoke(main, ["pull", str(shared), "--to", str(out / "mine")])
    assert done.exit_code == 2, done.output
    line = done.stderr.splitlines()[-1]
    assert line.startswith("harvib: ")
    assert expected in line
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.name.startswith(".")}
    assert {name for name in left if "/." not in name} <= {"mine"}


def entry(**fields: Any) -> Callable[[Path], None]:
    """Change the entry of model.safetensors in the manifest."""

    def change(shared: Path) -> None:
        files = json.loads((shared / MANIFEST).read_text())["files"]
        set_fields(shared, files=[e | fields if e["name"] == "model.safetensors" else e for e in files])

    return change


def more(*names: str) -> Callable[[Path], None]:
    """List files more, which are there."""

    def change(shared: Path) -> None:
        listed = json.loads((shared / MANIFEST).read_text())["files"]
        for name in names:
            place = shared / name
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes((shared / "model.safetensors").read_bytes())
        found = next(e for e in listed if e["name"] == "model.safetensors")
        set_fields(shared, files=[*listed, *(found | {"name": name} for name in names)])

    return change


def field(**fields: Any) -> Callable[[Path], None]:
    return lambda shared: set_fields(shared, **fields)


MANIFESTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "another hash": (entry(sha256="0" * 64), "its content is not that of its files"),
    "no hash": (entry(sha256="xyz"), "sha256 of model.safetensors is no hash"),
    "another size": (entry(bytes=7), "promised were 7"),
    "a negative size": (entry(bytes=-1), "-1 bytes of model.safetensors"),
    "a size of no number": (entry(bytes=True), "True bytes of model.safetensors"),
    "a huge size": (entry(bytes=1 << 60), "from 0 to 68,719,476,736 may be"),
    "above": (more("../evil/model.safetensors"), "is no file of a model that harvib takes"),
    "dots": (more("../model.safetensors"), "is no file of a model"),
    "absolute": (entry(name="/tmp/model.safetensors"), "is no file of a model"),
    "a backslash": (entry(name="..\\model.safetensors"), "is no file of a model"),
    "two folders": (more("a/b/model.safetensors"), "is no file of a model"),
    "an unknown stream": (more("rgb/model.safetensors"), "lists files of a stream that it does not name"),
    "a hidden file": (more(".bashrc"), "is no file of a model"),
    "a hidden folder": (more(".ssh/config.json"), "is no file of a model"),
    "last": (more("last/config.json"), "is no file of a model"),
    "python": (more("evil.py"), "is no file of a model"),
    "torchscript": (more("model.pt"), "is no file of a model"),
    "a library": (more("kernel.so"), "is no file of a model"),
    "a pickle": (more("model.pkl"), "is no file of a model"),
    "the manifest": (more("manifest.json"), "is no file of a model"),
    "the card": (more("README.md"), "is no file of a model"),
    "twice": (more("masked.safetensors"), "lists a file twice"),
    "twins": (more("INT8-weights.onnx"), "lists a file twice"),
    "no text": (entry(name=5), "5 is no file of a model"),
    "a long name": (entry(name="x" * 10_000), "is no file of a model"),
    "a line end": (more("model.safetensors\n"), "is no file of a model"),
    "newer": (field(version=2), "version 2, this program reads up to 1: update it"),
    "no version": (field(version="1"), "version '1' is no number"),
    "another kind": (field(format="harfeat-manifest"), "holds a cache, no model"),
    "a stranger's": (field(format="x"), "not the manifest of a model"),
    "no files": (field(files=[]), "lists no whole model, config.json is missing"),
    "files of no list": (field(files={}), "files is missing or no list"),
    "not complete": (field(complete=False), "the model there is not complete"),
    "another content": (field(content="0" * 64), "its content is not that of its files"),
    "another fingerprint": (field(fingerprint="0" * 64), "do not agree on the fingerprint"),
    "no fingerprint": (field(fingerprint=""), "its fingerprint is none"),
    "streams": (
        field(streams=[{"name": "rgb", "fingerprint": "0" * 64, "weight": 1.0}], fingerprint=""),
        "lists no whole model, rgb/config.json is missing",
    ),
    "an evil stream": (
        field(streams=[{"name": "../x", "fingerprint": "0" * 64, "weight": 1.0}]),
        "is no name of a stream",
    ),
    "a stream of no weight": (
        field(streams=[{"name": "x", "fingerprint": "0" * 64}]),
        "no fingerprint or no weight",
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_hostile_manifest_does_no_harm(shared: Path, name: str) -> None:
    change, expected = MANIFESTS[name]
    (shared.parent / "evil").mkdir()
    change(shared)
    assert_pull_refused(shared, expected)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"[" * 200_000, b'{"format": "harvib-model"}', b"\xff\xfe"])
def test_a_manifest_of_no_json_is_told(shared: Path, text: bytes) -> None:
    (shared / MANIFEST).write_bytes(text)
    assert_pull_refused(shared, MANIFEST)


def js(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda shared: change_json(shared / name, change)


def tensors(name: str, change: Callable[[dict[str, Any], dict[str, str]], object]) -> Callable[[Path], None]:
    return lambda shared: change_tensors(shared / name, change)


def written(name: str, content: bytes) -> Callable[[Path], None]:
    def change(shared: Path) -> None:
        (shared / name).write_bytes(content)

    return change


def foreign_onnx(shared: Path) -> None:
    proto = onnx.load(shared / "int8-weights.onnx")
    proto.graph.node[0].domain = "com.microsoft"
    onnx.save(proto, shared / "int8-weights.onnx")


def first(values: dict[str, Any]) -> Any:
    return next(value for name, value in sorted(values.items()) if value.is_floating_point())


CONTENTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a damaged model": (written("model.safetensors", b"\x00" * 500), "not a readable safetensors file"),
    "an empty model": (written("model.safetensors", b""), "not a readable safetensors file"),
    "a pickle": (written("model.safetensors", b"\x80\x04K\x01."), "not a readable safetensors file"),
    "NaN": (tensors("model.safetensors", lambda t, m: first(t).fill_(float("nan"))), "holds NaN or infinity"),
    "a newer model": (
        tensors("model.safetensors", lambda t, m: m.update(version="9")),
        "model version 9; this program",
    ),
    "no spec": (tensors("model.safetensors", lambda t, m: m.pop("spec")), "'spec' is missing"),
    "a name that commands the terminal": (
        tensors("model.safetensors", lambda t, m: t.update({"a\n\x1b[31mred": first(t).clone()})),
        "a\\n\\x1b[31mred is only in one of them",
    ),
    "no such model": (tensors("model.safetensors", lambda t, m: m.update(format="x")), "not a harvib model"),
    "the plain model for the final": (
        lambda shared: shutil.copy(shared / "plain.safetensors", shared / "model.safetensors"),
        "do not agree on the kind of model",
    ),
    "masked and plain": (
        lambda shared: shutil.copy(shared / "plain.safetensors", shared / "masked.safetensors"),
        "do not agree on the kind of model",
    ),
    "a class less": (
        js("config.json", lambda v: v["classes"].pop()),
        "do not agree on the classes (3 of them and 4",
    ),
    "other classes": (js("config.json", lambda v: v["classes"].reverse()), "do not agree on the classes"),
    "classes of no list": (
        js("config.json", lambda v: v.update(classes=5)),
        "config.json: lacks what a run's has",
    ),
    "another stream": (js("config.json", lambda v: v.update(stream="flow")), "do not agree on the stream"),
    "another recipe": (js("config.json", lambda v: v.update(recipe={"kind": "x"})), "do not agree on the recipe"),
    "another fingerprint": (
        js("report.json", lambda v: v.update(fingerprint="0" * 64)),
        "agree on the fingerprint",
    ),
    "no settings": (js("config.json", lambda v: v.pop("settings")), "config.json lacks what a run's has"),
    "settings of no object": (js("config.json", lambda v: v.update(settings=[])), "lacks what a run's has"),
    "a setting of another type": (js("config.json", lambda v: v["settings"].update(layers="x")), "layers is 'x'"),
    "streams": (js("config.json", lambda v: v.update(streams=[{"name": "a"}])), "are not those of its manifest"),
    "evil streams": (js("config.json", lambda v: v.update(streams=[{"name": "../a"}])), "cannot be understood"),
    "streams of no list": (js("config.json", lambda v: v.update(streams=7)), "lacks what a run's has"),
    "a backbone": (
        js("config.json", lambda v: v.update(backbone={})),
        "a run on videos has a backbone.safetensors",
    ),
    "interrupted": (js("report.json", lambda v: v.update(interrupted={})), "is not finished"),
    "no figures": (js("report.json", lambda v: v.pop("plain")), "lacks what a run's has"),
    "no compact": (js("report.json", lambda v: v.pop("compact")), "do not agree on the kind of model"),
    "other parameters": (
        js("report.json", lambda v: v["compact"]["parameters"].update(total=5)),
        "do not agree on the parameters (5 and ",
    ),
    "figures of text": (js("report.json", lambda v: v["compact"].update(inputs="many")), "lacks what a run's has"),
    "a figure of an object": (
        js("report.json", lambda v: v["masked"].update(accuracy=[])),
        "lacks what a run's has",
    ),
    "a small confusion": (js("report.json", lambda v: v.update(confusion=[[1]])), "lacks what a run's has"),
    "deep JSON": (written("report.json", b"[" * 100_000), "report.json"),
    "no JSON": (written("config.json", b"{"), "config.json: not JSON"),
    "a list": (written("report.json", b"[]"), "report.json: not a JSON object"),
    "binary": (written("config.json", b"\xff\xfe\x00"), "config.json"),
    "no latency": (js("bench.json", lambda v: v.clear()), "lacks what a run's has"),
    "latency of text": (js("bench.json", lambda v: v["plain"].update(median_ms="fast")), "lacks what a run's has"),
    "metrics of text": (written("metrics.csv", b"stage,epoch,seconds\nplain,1,evil\n"), "metrics.csv: lacks"),
    "binary metrics": (written("metrics.csv", b"\xff\x00,\n\x00\n"), "metrics.csv: lacks"),
    "quantised otherwise": (js("quantize.json", lambda v: v.update(model="0" * 64)), "is of another model"),
    "no schemes": (js("quantize.json", lambda v: v.pop("schemes")), "quantize.json: lacks what a run's has"),
    "a damaged onnx": (written("int8-weights.onnx", b"x" * 99), "not a readable ONNX file"),
    "operators of others": (foreign_onnx, "is none of ONNX: not harvib's"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_content_that_makes_no_sense_is_refused_though_its_hashes_fit(shared: Path, name: str) -> None:
    change, expected = CONTENTS[name]
    change(shared)
    resigned(shared)
    assert_pull_refused(shared, expected)


def test_damage_without_new_hashes_is_told_by_the_hash(shared: Path) -> None:
    content = bytearray((shared / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (shared / "model.safetensors").write_bytes(content)
    assert_pull_refused(shared, "model.safetensors: SHA-256 is")


@pytest.mark.parametrize("name", ["config.json", "report.json", "model.safetensors"])
def test_a_file_that_is_gone_is_told(shared: Path, name: str) -> None:
    (shared / name).unlink()
    assert_pull_refused(shared, f"{name}: not there")


FUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "other weights": (
        js("report.json", lambda v: v["compact"]["weights"].update(rgb=0.123)),
        "the weights of its report are not those",
    ),
    "swapped streams": (js("config.json", lambda v: v["streams"].reverse()), "are not those of its manifest"),
    "a stream less": (js("config.json", lambda v: v["streams"].pop()), "are not those of its manifest"),
    "a class less": (js("config.json", lambda v: v["classes"].pop()), "do not agree on the classes"),
    "models swapped": (
        lambda shared: shutil.copy(shared / "rgb" / "model.safetensors", shared / "flow" / "model.safetensors"),
        "do not agree on the stream",
    ),
    "a damaged stream": (js("flow/report.json", lambda v: v["compact"].clear()), "lacks what a run's has"),
}


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_run_that_makes_no_sense_is_refused(pushed: dict[str, Path], tmp_path: Path, name: str) -> None:
    shared = shutil.copytree(pushed["fused"], tmp_path / "in" / "shared")
    change, expected = FUSED[name]
    change(shared)
    resigned(shared)
    assert_pull_refused(shared, expected)


BACKBONES: dict[str, tuple[Callable[[Path], object], str]] = {
    "damaged": (written("backbone.safetensors", b"x" * 200), "not a readable safetensors file"),
    "of no network": (
        tensors("backbone.safetensors", lambda t, m: m.update(model="hf-hub:evil/x")),
        "knows no such",
    ),
    "of a huge network": (
        tensors("backbone.safetensors", lambda t, m: m.update(model="vit_gigantic_patch14_clip_224")),
        "numbers for vit_gigantic_patch14_clip_224, which has 1,8",
    ),
    "newer": (
        tensors("backbone.safetensors", lambda t, m: m.update(version="9")),
        "version 9; this program reads 1",
    ),
    "fewer features": (
        lambda shared: shutil.copy(shared / "plain-block.safetensors", shared / "backbone.safetensors"),
        "not a backbone of harvib",
    ),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_that_makes_no_sense_is_refused(pushed: dict[str, Path], tmp_path: Path, name: str) -> None:
    shared = shutil.copytree(pushed["videos"], tmp_path / "in" / "shared")
    change, expected = BACKBONES[name]
    change(shared)
    resigned(shared)
    assert_pull_refused(shared, expected)


def test_a_backbone_that_is_left_out_is_missed(pushed: dict[str, Path], tmp_path: Path) -> None:
    shared = shutil.copytree(pushed["videos"], tmp_path / "in" / "shared")
    resigned(shared, drop="backbone.safetensors")
    assert_pull_refused(shared, "a run on videos has a backbone.safetensors")


def test_what_was_pulled_before_stays_where_an_update_is_refused(
    pushed: dict[str, Path], shared: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    pull(str(shared), mine)
    before = {path: path.read_bytes() for path in mine.iterdir() if path.is_file()}
    change_json(shared / "config.json", lambda value: value["classes"].reverse())
    resigned(shared)
    with pytest.raises(InputError, match="do not agree on the classes"):
        pull(str(shared), mine)
    assert {path: path.read_bytes() for path in mine.iterdir()} == before
    shutil.copytree(pushed["run"], shared, dirs_exist_ok=True)
    assert pull(str(shared), mine).fetched_files == 0


def test_the_tampered_folders_are_whole_without_the_tampering(pushed: dict[str, Path], tmp_path: Path) -> None:
    """The refusals above are of what was changed."""
    for name, path in pushed.items():
        shared = shutil.copytree(path, tmp_path / "in" / name)
        resigned(shared)
        assert pull(str(shared), tmp_path / "out" / name).path == tmp_path / "out" / name


@given(
    st.text(max_size=30)
    | st.from_regex(r"[a-zA-Z./\\~-]{0,9}(config\.json|a\.onnx|model\.safetensors)", fullmatch=True)
)
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_name_that_travels_leads_anywhere_else(name: str) -> None:
    if not travels(name):
        return
    assert Path("/in/folder", name).resolve().is_relative_to("/in/folder")
    assert len(Path(name).parts) <= 2
    assert not any(part.startswith(".") or "\\" in part or ":" in part for part in Path(name).parts)
    assert name.endswith((".json", ".csv", ".safetensors", ".onnx", ".html"))


@given(st.data())
@settings(max_examples=150, suppress_health_check=list(HealthCheck), deadline=None)
def test_no_altered_manifest_breaks_the_parser(pushed: dict[str, Path], data: st.DataObject) -> None:
    text = (pushed["fused"] / MANIFEST).read_bytes()
    start = data.draw(st.integers(0, len(text) - 1))
    length, new = data.draw(st.integers(0, 40)), data.draw(st.binary(max_size=12))
    altered = text[:start] + new + text[start + length :]
    try:
        manifest = parse(altered, "there")
    except InputError as error:
        altered = str(error).encode()
        assert b"\n" not in altered
        return
    assert all(travels(file.name) for file in manifest.files)
    assert MODELS.parse(altered, "there").identity == manifest.content or not manifest.complete
