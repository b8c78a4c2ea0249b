"""`harvib predict` on files: what it tells is what the model sees of the same video in a cache."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import made_up_cache
from frames import TINY, weights_file
from predict_models import CLASSES, make_cache, make_model, make_videos, predict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_runs import QUICK, assert_refused
from videos import GENUINE

from harfeat.cache import open_cache
from harfeat.decode import pool
from harfeat.decode.worker import Prepared, run
from harfeat.extractor import InputError as ExtractorError
from harfeat.extractor import pictures, videos_below
from harfeat.preprocess import TransformConfig
from harfeat.sampling import SamplingSettings
from harfeat.weights import export_weights
from harvib import fusion, methods, videos
from harvib.backbones import load_backbone
from harvib.evaluate import evaluate_run
from harvib.export import export_run
from harvib.modelfiles import load_any
from harvib.predict import Prediction, Predictor, top
from harvib.predict.inputs import Files, inputs_of
from harvib.settings import BackboneSettings, TrainSettings
from harvib.weights import load_model, save_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, a cache of them and a model with random weights; tests change none of these."""
    folder = tmp_path_factory.mktemp("made")
    make_cache(make_videos(folder / "videos", clips=3), folder / "cache.h5")
    make_model(folder / "cache.h5", folder / "model.safetensors")
    return folder


def wanted_of(model: Path, cache: Path, steps: int | None = None) -> dict[str, np.ndarray]:
    """By video the softmax of the model's logits on the cache's rows, computed here."""
    network, card = load_model(model)
    found = {}
    with open_cache(cache) as opened, torch.no_grad():
        for number, clip in enumerate(opened.clips):
            rows = opened.read(number, card.stream).features[:steps]
            x = torch.from_numpy(rows.astype(np.float32))[None]
            x = x / 255 if rows.dtype == np.uint8 else x
            logits = network(x, torch.tensor([x.shape[1]]))[0].double().numpy()
            found[clip.name] = np.exp(logits) / np.exp(logits).sum()
    return found


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def shares(line: dict[str, Any]) -> np.ndarray:
    """The probabilities of a line in the order of the classes."""
    by_label = {item["label"]: item["probability"] for item in line["top"]}
    return np.array([by_label[name] for name in CLASSES])


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": SamplingSettings("random", 4, max_interval=3, seed=5, views=2), "dtype": "float32"},
        {"sampling": SamplingSettings("dense", interval=5)},
        {"sampling": SamplingSettings("first", 11, short="wrap")},
        {"sampling": SamplingSettings(frames=3, stream="flow")},
        {"model": "pixels", "size": "20x16", "sampling": SamplingSettings("fps", fps=10.0)},
    ],
    ids=["random", "dense", "wrap", "flow", "pixels"],
)
def test_probabilities_are_those_of_the_caches_rows(made: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    cache = make_cache(made / "videos", tmp_path / "c.h5", **changes)
    model = make_model(cache, tmp_path / "m.safetensors", "gru")
    result = predict("--model", model, "--json", made / "videos")
    assert result.exit_code == 0, result.output
    wanted = wanted_of(model, cache)
    lines = lines_of(result.stdout)
    assert [str(Path(line["input"]).relative_to(made / "videos")) for line in lines] == sorted(wanted)
    for line in lines:
        theirs = wanted[str(Path(line["input"]).relative_to(made / "videos"))]
        np.testing.assert_allclose(shares(line), theirs, atol=1e-6)
    assert len({json.dumps(line["top"]) for line in lines}) > 3, "they are all alike: the test says little"
    # The running prediction ends with the same.
    result = predict("--model", model, "--json", "--stream", made / "videos")
    last = {line["input"]: line for line in lines_of(result.stdout)}
    for line in lines:
        np.testing.assert_allclose(shares(last[line["input"]]), shares(line), atol=1e-5)


def test_a_trained_run_predicts_what_evaluate_counts(made: Path, tmp_path: Path) -> None:
    settings = TrainSettings(**{**QUICK, "validation": 0.3})
    methods.train(made / "cache.h5", "group", settings, tmp_path / "run", device=CPU)
    predictor = Predictor(tmp_path / "run", device="cpu")
    paths = sorted((made / "videos").rglob("*.avi"))
    found = list(predictor.videos(paths, workers=2))
    wanted = wanted_of(tmp_path / "run" / "model.safetensors", made / "cache.h5")
    right = 0
    for path, prediction in zip(paths, found, strict=True):
        assert isinstance(prediction, Prediction)
        assert prediction.clip.path == str(path)
        np.testing.assert_allclose(
            prediction.probabilities, wanted[str(path.relative_to(made / "videos"))], atol=1e-6
        )
        (label, share), *_ = top(prediction.probabilities, predictor.classes, 2)
        assert share == prediction.probabilities.max()
        right += label == path.parent.name
    accuracy = evaluate_run(tmp_path / "run", made / "cache.h5", None, "test", CPU)["accuracy"]
    assert right / len(paths) == pytest.approx(accuracy)


def test_genuine_clips(shared_data: Path, tmp_path: Path) -> None:
    """UCF11, HMDB51, UCF101 and UTD-MHAD files, as a cache has them."""
    for name in GENUINE:
        path = shared_data / name
        (tmp_path / "videos" / path.parent.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / path.parent.parent.name / path.name).symlink_to(path)
    cache = make_cache(tmp_path / "videos", tmp_path / "c.h5", group_pattern=None)
    model = make_model(cache, tmp_path / "m.safetensors")
    wanted = wanted_of(model, cache)
    predictor = Predictor(model, device="cpu")
    paths = [tmp_path / "videos" / name for name in wanted]
    for path, found in zip(paths, predictor.videos(paths), strict=True):
        assert isinstance(found, Prediction)
        np.testing.assert_allclose(
            found.probabilities, wanted[str(path.relative_to(tmp_path / "videos"))], atol=1e-6
        )


def test_the_text_names_video_labels_and_probabilities(made: Path) -> None:
    video = made / "videos" / "jump" / "g0_jump.avi"
    result = predict("--model", made / "model.safetensors", "--topk", "2", video)
    assert (result.exit_code, result.stderr) == (0, "")
    theirs = wanted_of(made / "model.safetensors", made / "cache.h5")["jump/g0_jump.avi"]
    first, second, _ = sorted(zip(theirs, CLASSES, strict=True), reverse=True)
    assert result.stdout == f"{video}: {first[1]} {first[0]:.1%}, {second[1]} {second[0]:.1%}\n"


@pytest.mark.parametrize("cell", ["lstm", "conv", "mlp"])
def test_every_line_of_a_stream_is_the_prediction_so_far(made: Path, tmp_path: Path, cell: str) -> None:
    model = make_model(made / "cache.h5", tmp_path / "m.safetensors", cell, readout="last")
    video = made / "videos" / "run" / "g1_run.avi"
    lines = lines_of(predict("--model", model, "--stream", "--json", video).stdout)
    with open_cache(made / "cache.h5") as cache:
        place = [clip.name for clip in cache.clips].index("run/g1_run.avi")
        frames = cache.read(place).frame_index.tolist()
    assert [line["frame"] for line in lines] == frames
    assert [line["time"] for line in lines] == [pytest.approx(frame / 25) for frame in frames]
    for steps, line in enumerate(lines, 1):
        theirs = wanted_of(model, made / "cache.h5", steps)["run/g1_run.avi"]
        np.testing.assert_allclose(shares(line), theirs, atol=1e-5)
    text = predict("--model", model, "--stream", "--topk", "1", video).stdout.splitlines()
    best = max(lines[0]["top"], key=lambda item: item["probability"])
    assert (
        text[0] == f"{video}: {frames[0] / 25:.2f} s, frame {frames[0]}: {best['label']} {best['probability']:.1%}"
    )
    again = lines_of(predict("--model", model, "--stream", "--json", "--restart-every", "1", video).stdout)
    np.testing.assert_allclose(shares(again[0]), shares(lines[0]), atol=1e-6)
    assert not np.allclose(shares(again[-1]), shares(lines[-1]), atol=1e-4)


def test_models_that_see_whole_clips_stream_too(made: Path, tmp_path: Path) -> None:
    both = make_model(made / "cache.h5", tmp_path / "both.safetensors", shape=((5, 5),))
    one = make_model(made / "cache.h5", tmp_path / "one.safetensors")
    exported = [tmp_path / "one.onnx", tmp_path / "one.pt"]
    for file, form in zip(exported, ("onnx", "torchscript"), strict=True):
        export_run(one, form, file)
        assert load_any(file)[1].recipe == load_model(one)[1].recipe
    video = made / "videos" / "sit" / "g0_sit.avi"
    for model, reference in ((both, both), *((file, one) for file in exported)):
        whole = lines_of(predict("--model", model, "--json", video).stdout)[0]
        theirs = wanted_of(reference, made / "cache.h5")["sit/g0_sit.avi"]
        np.testing.assert_allclose(shares(whole), theirs, atol=1e-5)
        steps = lines_of(predict("--model", model, "--json", "--stream", video).stdout)
        assert len(steps) == 4
        np.testing.assert_allclose(shares(steps[-1]), shares(whole), atol=1e-5)


def test_a_model_that_pools_frames(made: Path, tmp_path: Path) -> None:
    epochs: dict[str, Any] = {"plain_epochs": 2, "validation": 0.3, "clusters": "4", "experts": 2, "bag_frames": 3}
    settings = TrainSettings(**{**QUICK, **epochs, "method": "plain", "model": "dbof", "standardize": False})
    methods.train(made / "cache.h5", "group", settings, tmp_path / "run", device=CPU)
    video = made / "videos" / "sit" / "g0_sit.avi"
    (whole,) = lines_of(predict("--model", tmp_path / "run", "--json", video).stdout)
    theirs = wanted_of(tmp_path / "run" / "model.safetensors", made / "cache.h5")["sit/g0_sit.avi"]
    np.testing.assert_allclose(shares(whole), theirs, atol=1e-5)
    steps = lines_of(predict("--model", tmp_path / "run", "--json", "--stream", video).stdout)
    np.testing.assert_allclose(shares(steps[-1]), theirs, atol=1e-5)


def test_of_several_labels_each_has_a_probability_of_its_own(made: Path, tmp_path: Path) -> None:
    network, card = load_model(made / "model.safetensors")
    save_model(tmp_path / "several.safetensors", network, replace(card, several=True))
    video = made / "videos" / "jump" / "g0_jump.avi"
    (one,) = Predictor(made / "model.safetensors", device="cpu").videos([video], workers=0)
    (several,) = Predictor(tmp_path / "several.safetensors", device="cpu").videos([video], workers=0)
    assert isinstance(one, Prediction)
    assert isinstance(several, Prediction)
    np.testing.assert_array_equal(one.logits, several.logits)
    np.testing.assert_allclose(several.probabilities, 1 / (1 + np.exp(-one.logits)), atol=1e-12)
    assert one.probabilities.sum() == pytest.approx(1)


def test_a_fused_run_sees_each_stream(made: Path, tmp_path: Path) -> None:
    flow = make_cache(made / "videos", tmp_path / "flow.h5", sampling=SamplingSettings(frames=3, stream="flow"))
    settings = TrainSettings(**{**QUICK, "method": "plain", "plain_epochs": 3, "validation": 0.3})
    fused_run = tmp_path / "run"
    fusion.train([made / "cache.h5", flow], "group", settings, fused_run, device=CPU)
    video = made / "videos" / "run" / "g0_run.avi"
    (line,) = lines_of(predict("--model", fused_run, "--json", video).stdout)
    fused, cards = fusion.load_fused(fused_run)
    inputs = {}
    for name, path in (("rgb", made / "cache.h5"), ("flow", flow)):
        with open_cache(path) as cache:
            place = [clip.name for clip in cache.clips].index("run/g0_run.avi")
            rows = torch.from_numpy(cache.read(place, cards[name].stream).features.astype(np.float32))[None]
        inputs[name] = rows, torch.tensor([rows.shape[1]])
    with torch.no_grad():
        theirs = fused(inputs)[0].softmax(0).numpy()
    np.testing.assert_allclose(shares(line), theirs, atol=1e-5)
    assert [len(frames) for frames in line["frames"]] == [4, 3]
    steps = lines_of(predict("--model", fused_run, "--json", "--stream", video).stdout)
    np.testing.assert_allclose(shares(steps[-1]), theirs, atol=1e-5)
    frames = [step["frame"] for step in steps]
    assert frames == sorted(set(frames))
    assert set(frames) <= {*line["frames"][0], *line["frames"][1]}


def test_a_run_on_videos_brings_its_own_backbone(made: Path, tmp_path: Path) -> None:
    frames = make_cache(made / "videos", tmp_path / "frames.h5", model="pixels", size="32x24")
    chosen = BackboneSettings(TINY, str(weights_file(tmp_path / "w.safetensors")), 1e-4)
    epochs = {"plain_epochs": 3, "vib_epochs": 3, "finetune_epochs": 1}
    settings = TrainSettings(**{**QUICK, **epochs, "validation": 0.3})
    run_dir = tmp_path / "run"
    videos.train(frames, "group", settings, chosen, run_dir, CPU)
    result = predict("--model", run_dir, "--json", made / "videos")
    assert result.exit_code == 0, result.output
    model, backbone = load_model(run_dir / "model.safetensors")[0], load_backbone(run_dir)
    lines = {str(Path(line["input"]).relative_to(made / "videos")): line for line in lines_of(result.stdout)}
    with open_cache(frames) as cache, torch.no_grad():
        for number, clip in enumerate(cache.clips):
            images = torch.from_numpy(cache.read(number).features.reshape(-1, 24, 32, 3)).permute(0, 3, 1, 2)
            theirs = model(backbone(images)[None], torch.tensor([len(images)]))[0].softmax(0).numpy()
            np.testing.assert_allclose(shares(lines[clip.name]), theirs, atol=1e-5)
    # The live path makes the features of single frames.
    stream = Predictor(run_dir, device="cpu", batch=1).stream()
    for picture in pictures(made / "videos" / "run" / "g0_run.avi"):
        found, _ = stream.see(picture)
    assert np.isfinite(found).all()
    (run_dir / "backbone.safetensors").unlink()
    assert_refused(predict("--model", run_dir, made / "videos"), "backbone.safetensors: no such file")


def test_what_is_broken_costs_itself_alone(made: Path, tmp_path: Path) -> None:
    whole = made / "videos" / "jump" / "g0_jump.avi"
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "notes.txt").write_text("FFmpeg paints text files, frame by frame. " * 200)
    (tmp_path / "empty.avi").write_bytes(b"")
    (tmp_path / "none").mkdir()
    names = [
        tmp_path / "missing.avi",
        whole,
        tmp_path / "text.mp4",
        tmp_path / "empty.avi",
        tmp_path / "none",
        whole,
        tmp_path / "notes.txt",
    ]
    result = predict("--model", made / "model.safetensors", "--json", *names)
    assert result.exit_code == 1
    lines = lines_of(result.stdout)
    assert [line["input"] for line in lines] == list(map(str, names))
    errors = [line.get("error") for line in lines]
    assert errors[6] == "a text, not a video"
    assert errors[1] is None
    assert errors[0] == "no such file or folder"
    assert "not a readable video" in str(errors[2])
    assert errors[3] == "the file is empty"
    assert errors[4] == "no video files in it"
    assert lines[1]["top"] == lines[5]["top"]
    assert result.stderr.splitlines() == [
        f"failed: {line['input']}: {line['error']}" for line in lines if "error" in line
    ]
    alone = predict("--model", made / "model.safetensors", tmp_path / "text.mp4")
    assert (alone.exit_code, alone.stdout) == (1, "")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_video_that_breaks_half_way_is_told(
    shared_data: Path, made: Path, tmp_path: Path, as_json: bool
) -> None:
    """What FFmpeg makes of the rest is used, as in a cache."""
    data = bytearray((shared_data / GENUINE[3]).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = os.urandom(4000)
    (tmp_path / "hurt.avi").write_bytes(data)
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 3])
    extra = ["--json"] if as_json else []
    result = predict("--model", made / "model.safetensors", *extra, tmp_path)
    assert result.exit_code == 0, result.output
    cut, hurt = result.stdout.splitlines()
    if as_json:
        assert json.loads(hurt)["damaged"]
        assert 0 < json.loads(cut)["source_frames"] < json.loads(hurt)["source_frames"]
    else:
        assert hurt.endswith(" (damaged: FFmpeg met errors in it)")
        stream = predict("--model", made / "model.safetensors", "--stream", tmp_path / "hurt.avi")
        assert "damaged: FFmpeg met errors in it" in stream.stderr


def hostile(path: str, sampling: SamplingSettings, config: TransformConfig) -> Prepared:
    """What a worker runs here: one clip hangs it, one kills it."""
    if "hangs" in path:
        pow(3, 10**9)
    if "kills" in path:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(path, sampling, config)


def test_a_hang_and_a_crash_cost_one_video_each(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "run", hostile)
    for name in ("a", "hangs", "kills", "z"):
        shutil.copy(made / "videos" / "jump" / "g0_jump.avi", tmp_path / f"{name}.avi")
    result = predict("--model", made / "model.safetensors", "--workers", "2", "--clip-timeout", "2", tmp_path)
    assert result.exit_code == 1
    first, second = result.stdout.splitlines()
    assert first.replace("a.avi", "z.avi") == second
    assert result.stderr.splitlines() == [
        f"note: {tmp_path}: 4 videos",
        f"failed: {tmp_path / 'hangs.avi'}: decoding took longer than 2 s and was stopped",
        f"failed: {tmp_path / 'kills.avi'}: the decoder crashed (exit code -9)",
    ]


def test_wrong_use_is_told_in_one_line(made: Path, tmp_path: Path) -> None:
    video, model = made / "videos" / "jump" / "g0_jump.avi", made / "model.safetensors"
    (tmp_path / "none").mkdir()
    cases: list[tuple[list[str | Path], str]] = [
        ([tmp_path / "x.avi"], "x.avi: no such file or folder"),
        ([tmp_path / "x.avi", tmp_path / "none"], "no such file or folder, and 1 more like it"),
        ([tmp_path / "none"], "no video files in it"),
        (["-", video], "a live source stands alone"),
        (["--topk", "0", video], "--topk 0: must be at least 1"),
        (["--clip-timeout", "nan", video], "--clip-timeout nan: must be more than 0"),
        (["--interval", "3", video], "--interval goes with --stream"),
        (["--restart-every", "3", video], "--restart-every goes with --stream"),
        (["--stream", "--interval", "3", video], "--interval is for a camera or standard input"),
        (["--frames", "3", video], "--frames is for a camera or standard input"),
        (["--weights", tmp_path / "w.pth", video], "w.pth: no such file"),
        (["--overlay", tmp_path / "o.avi", video], "must end in one of .mp4"),
        (["--overlay", tmp_path / "no" / "o.mp4", video], "there is no folder"),
        (["--overlay", tmp_path / "o.mp4", made / "videos"], "of one video; 9 are named"),
        (["--device", "xpu9", video], "--device xpu9: cannot be used here"),
    ]
    for arguments, told in cases:
        result = predict("--model", model, *arguments)
        assert_refused(result, told)
        assert result.stdout == ""
    assert_refused(predict("--model", tmp_path / "m", video), "no such model file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none"]


def test_models_that_no_video_can_feed_are_refused(made: Path, tmp_path: Path) -> None:
    video, model = made / "videos" / "jump" / "g0_jump.avi", made / "model.safetensors"
    with safe_open(model, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118

    def changed(**other: str | None) -> Path:
        told = {key: value for key, value in (metadata | other).items() if value is not None}
        save_file(tensors, tmp_path / "changed.safetensors", told)
        return tmp_path / "changed.safetensors"

    features = json.loads(metadata["spec"])["features"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"version": "2"}, "model version 2; this program reads up to 1: update it"),
        ({"classes": '["a", "b"]'}, "2 class names for 3 classes"),
        ({"recipe": None}, "changed.safetensors: neither the model file nor a config.json beside it"),
        ({"recipe": '{"kind": "imported"}'}, "the recipe of its features is not the one of its fingerprint"),
        ({"stream": "rgb+audio", "widths": f"[{features - 1}, 1]"}, "reads the streams rgb+audio side by side"),
        ({"stream": "rgb-view-1"}, "changed.safetensors: the model was trained on the stream rgb-view-1"),
    ]
    for other, told in cases:
        assert_refused(predict("--model", changed(**other), video), told)
    imported = make_model(made_up_cache(tmp_path / "i.h5", recipe="import"), tmp_path / "i.safetensors")
    assert_refused(predict("--model", imported, video), "not extracted from videos by harfeat (kind 'import')")


def test_another_backbone_is_refused(made: Path, tmp_path: Path) -> None:

    video = made / "videos" / "jump" / "g0_jump.avi"
    weights = tmp_path / "w.safetensors"
    export_weights("test_vit", "none", weights)
    told = predict("--model", made / "model.safetensors", "--weights", weights, "--json", video)
    assert told.exit_code == 0, told.output
    tensors = load_file(weights)
    tensors["cls_token"] = tensors["cls_token"] + 1
    save_file(tensors, weights)
    assert_refused(
        predict("--model", made / "model.safetensors", "--weights", weights, video), "another backbone than that"
    )


def test_a_model_file_from_before_recipes_reads_its_runs_config(made: Path, tmp_path: Path) -> None:
    settings = TrainSettings(**{**QUICK, "method": "plain", "plain_epochs": 1})
    old, video = tmp_path / "run", made / "videos" / "jump" / "g0_jump.avi"
    methods.train(made / "cache.h5", "group", settings, old, device=CPU)
    now = predict("--model", old, "--json", video)
    with safe_open(old / "model.safetensors", "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    del metadata["recipe"]
    save_file(tensors, old / "model.safetensors", metadata)
    for name in (old, old / "model.safetensors"):
        assert predict("--model", name, "--json", video).stdout == now.stdout != ""
    config = old / "config.json"
    config.write_text(config.read_text().replace('"test_vit"', '"test_vit2"'))
    assert_refused(predict("--model", old, video), f"{config}: its recipe is not that of the model's features")
    shutil.copy(old / "model.safetensors", tmp_path / "alone.safetensors")
    assert_refused(predict("--model", tmp_path / "alone.safetensors", video), "config.json beside it")


def test_names_cannot_command_the_terminal(made: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a\x1b[31m\nb\udcff.avi"
    shutil.copy(made / "videos" / "jump" / "g0_jump.avi", odd)
    result = predict("--model", made / "model.safetensors", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    assert "\\x1b[31m\\nb\\udcff.avi: " in result.stdout
    (line,) = lines_of(predict("--model", made / "model.safetensors", "--json", tmp_path).stdout)
    assert Path(line["input"]) == odd


def test_a_folder_stands_for_all_videos_below_it(tmp_path: Path) -> None:
    names = ("b.avi", "a/c.MP4", "a/d/e.mkv", ".hidden.avi", "a/._c.mp4", "notes.txt", "a/.git/x.mp4", "0.mov")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "gone.avi").symlink_to(tmp_path / "nothing")
    found = inputs_of([str(tmp_path), str(tmp_path / "b.avi")])
    assert isinstance(found, Files)
    wanted = ["0.mov", "a/c.MP4", "a/d/e.mkv", "b.avi", "gone.avi", "b.avi"]
    assert list(found.videos) == [tmp_path / name for name in wanted]
    assert found.notes == (f"{tmp_path}: 5 videos",)
    assert videos_below(tmp_path / "a" / "d") == [tmp_path / "a" / "d" / "e.mkv"]
    with pytest.raises(ExtractorError, match="no such folder"):
        videos_below(tmp_path / "b.avi")
