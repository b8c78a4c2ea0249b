"""Model files: what is written comes back, and every damaged, foreign or newer file gives one clear line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from harfeat.cache import fingerprint_of
from harvib.cells import shape_of
from harvib.compact import compact
from harvib.errors import InputError
from harvib.models import ModelSpec, SequenceClassifier
from harvib.weights import ModelCard, load_model, save_model, write_tensors

CARD = ModelCard(("hop", "run", "sit"), "f" * 64)


def models() -> dict[str, SequenceClassifier]:
    torch.manual_seed(0)
    plain = SequenceClassifier(ModelSpec("lstm", "plain", 9, 6, shape_of(5), 3, "last", 0.1))
    plain.selection.copy_(torch.tensor([0, 2, 3, 5, 7, 8]))
    plain.standardize_by(torch.randn(6), torch.rand(6) + 0.5)
    masked = plain.masked()
    with torch.no_grad():
        masked.masks()["input"].log_variance[2] = 9
        masked.masks()["f"].log_variance[1] = 9
        masked.masks()["o"].log_variance[0] = 9
    return {"plain": plain, "masked": masked, "compact": compact(masked)}


RECIPE: dict[str, Any] = {"kind": "video", "model": "öl", "transform": {"mean": [0.5, 0.25]}}


def test_the_recipe_of_the_features_goes_with_the_model(tmp_path: Path) -> None:
    card = ModelCard(("hop", "run", "sit"), fingerprint_of(RECIPE), recipe=RECIPE)
    save_model(tmp_path / "m.safetensors", models()["compact"], card)
    assert load_model(tmp_path / "m.safetensors")[1] == card


def test_a_recipe_that_is_not_that_of_the_fingerprint_is_refused(tmp_path: Path) -> None:
    for number, recipe in enumerate((RECIPE | {"model": "ol"}, {"kind": float("nan")})):
        path = tmp_path / f"{number}.safetensors"
        save_model(path, models()["compact"], ModelCard(CARD.classes, fingerprint_of(RECIPE), recipe=recipe))
        assert "metadata cannot be understood" in refusal(path)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, models()["compact"], CARD)
    return path


def parts_of(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("state", ["plain", "masked", "compact"])
def test_a_loaded_model_is_the_saved_one(tmp_path: Path, state: str) -> None:
    model = models()[state].eval()
    save_model(tmp_path / "m.safetensors", model, CARD)
    loaded, card = load_model(tmp_path / "m.safetensors")
    x, lengths = torch.randn(4, 5, 9), torch.tensor([5, 1, 3, 4])
    assert torch.equal(loaded(x, lengths), model(x, lengths))
    assert (card, loaded.spec, loaded.training) == (CARD, model.spec, False)
    assert loaded.parameter_counts() == model.parameter_counts()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.safetensors"], "no temporary file is left"


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for path in files:
        save_model(path, models()["masked"], ModelCard(("öl {;#", '\n\x01\x7f"\\', "sit"), "f" * 64))
    assert len({path.read_bytes() for path in files}) == 1
    assert load_model(files[0])[1].classes == ("öl {;#", '\n\x01\x7f"\\', "sit")


def test_a_saved_model_can_be_read_without_this_program(saved: Path) -> None:
    raw = saved.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    assert header["__metadata__"]["format"] == "harvib"
    assert json.loads(header["__metadata__"]["classes"]) == list(CARD.classes)
    start, stop = header["head.bias"]["data_offsets"]
    bias = np.frombuffer(raw[8 + size + start : 8 + size + stop], "<f4")
    assert np.array_equal(bias, models()["compact"].head.bias.detach().numpy())


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("format", None, "not a harvib model"),
        ("format", "other", "not a harvib model"),
        ("version", None, "version '' is not a number"),
        ("version", "one", "version 'one' is not a number"),
        ("version", "-1", "version '-1' is not a number"),
        ("version", "2", "this program reads up to 1: update it"),
        ("version", "99999999999999999999", "this program reads up to 1"),
        ("spec", None, "'spec' is missing"),
        ("spec", "", "metadata cannot be understood"),
        ("spec", "[]", "metadata cannot be understood"),
        ("spec", "7", "metadata cannot be understood"),
        ("spec", "{}", "metadata cannot be understood"),
        ("classes", None, "'classes' is missing"),
        ("classes", "{", "metadata cannot be understood"),
        ("classes", "3", "metadata cannot be understood"),
        ("classes", '["hop"]', "1 class names for 3 classes"),
        ("classes", "[1, 2, 3]", "class names are not all texts"),
        ("fingerprint", None, "'fingerprint' is missing"),
    ],
)
def test_metadata_that_is_missing_or_wrong_is_told(saved: Path, key: str, value: str | None, told: str) -> None:
    tensors, metadata = parts_of(saved)
    if value is None:
        del metadata[key]
    else:
        metadata[key] = value
    save_file(tensors, saved, metadata)
    assert told in refusal(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"cell": "gru"}, {"state": "weird"}, {"state": "plain"}, {"state": "masked"}, {"readout": "max"},
        {"hidden": 5}, {"hidden": 0}, {"hidden": -3}, {"hidden": 4.0}, {"hidden": "4"}, {"hidden": True},
        {"hidden": 10**7}, {"hidden": 10**12}, {"inputs": 4}, {"inputs": 10}, {"features": 8}, {"features": 4},
        {"features": None}, {"classes": 4}, {"dropout": 1.0}, {"dropout": -0.1}, {"dropout": "x"},
        {"cell": ["lstm"]}, {"unknown": 1}, {"readout": None},
    ],
)  # fmt: skip
def test_a_spec_that_does_not_fit_its_weights_is_refused(saved: Path, change: dict[str, Any]) -> None:
    tensors, metadata = parts_of(saved)
    metadata["spec"] = json.dumps(json.loads(metadata["spec"]) | change)
    save_file(tensors, saved, metadata)
    refusal(saved)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("head.bias", None, "head.bias is only in one of them"),
        ("more", torch.zeros(2), "more is only in one of them"),
        ("head.bias", torch.zeros(4), "head.bias is torch.float32 (4,), expected torch.float32 (3,)"),
        ("head.bias", torch.zeros(3).double(), "head.bias is torch.float64"),
        ("head.bias", torch.tensor([0.0, float("nan"), 0.0]), "head.bias holds NaN or infinity"),
        ("selection", torch.tensor([0, 2, 5, 7, 9]), "selection points outside of the 9 values"),
        ("selection", torch.tensor([-1, 2, 5, 7, 8]), "selection points outside of the 9 values"),
    ],
)
def test_tensors_that_are_missing_or_wrong_are_told(
    saved: Path, name: str, value: Tensor | None, told: str
) -> None:
    tensors, metadata = parts_of(saved)
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, saved, metadata)
    assert told in refusal(saved)


@given(st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_short_is_refused(saved: Path, share: float) -> None:
    raw = saved.read_bytes()
    cut = saved.with_name("cut.safetensors")
    cut.write_bytes(raw[: int(len(raw) * share)])
    assert "not a readable safetensors file" in refusal(cut)


@given(st.integers(0, 1 << 20), st.integers(1, 255))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_changed_byte_of_the_header_gives_one_line_or_a_model(saved: Path, place: int, flip: int) -> None:
    raw = bytearray(saved.read_bytes())
    raw[place % (8 + int.from_bytes(raw[:8], "little"))] ^= flip
    other = saved.with_name("other.safetensors")
    other.write_bytes(raw)
    with contextlib.suppress(InputError):
        model, _ = load_model(other)
        assert isinstance(model.spec, ModelSpec)
        assert model.spec.shape == ((4,),), "what is still read has the sizes of its weights"
        return
    refusal(other)


def test_the_umask_says_who_may_read_a_file(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(2)}, {})
    finally:
        os.umask(before)
    assert (tmp_path / "t.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"t\.safetensors: cannot be written: No space left on device"):
        write_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(2)}, {})
    assert not list(tmp_path.iterdir())


def test_a_file_that_may_not_be_read_is_not_called_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    write_tensors(tmp_path / "t.safetensors", {"a": torch.zeros(2)}, {})
    monkeypatch.setattr(Path, "open", locked)
    assert refusal(tmp_path / "t.safetensors").endswith("Permission denied")


@pytest.mark.parametrize(
    "content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04" + bytes(100), b"\x80\x02}q\x00.", bytes(64)]
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    assert "not a readable safetensors file" in refusal(path)


def test_a_missing_file_says_how_it_comes_about(tmp_path: Path) -> None:
    assert "no such model file" in refusal(tmp_path / "model.safetensors")
    assert "no such model file" in refusal(tmp_path)
