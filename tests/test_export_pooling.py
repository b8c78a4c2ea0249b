"""Pooling models as ONNX and TorchScript: the same logits from the file alone, whatever the clips' lengths."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_models import assert_close
from pooling_models import clips, plain_model
from small_runs import assert_refused
from test_pooling_compact import masked_models

from harvib.cli import main
from harvib.compact import compact
from harvib.errors import InputError
from harvib.export import exported_bytes
from harvib.filed import FileClassifier
from harvib.onnxfile import read_onnx
from harvib.pooling.model import PoolingClassifier
from harvib.pooling.netfv import NetFV, deviation
from harvib.quantize.numbers import by_rows
from harvib.scriptfile import read_script
from harvib.weights import ModelCard, save_model

READ = {"onnx": read_onnx, "torchscript": read_script}


def card_of(model: PoolingClassifier) -> ModelCard:
    return ModelCard(tuple(map(str, range(model.spec.classes))), "f" * 64, several=True)


def file_of(model: PoolingClassifier, form: str, quantize: str = "none") -> FileClassifier:
    (data,) = exported_bytes(model, card_of(model), form, quantize).values()
    module, card = READ[form](data, "x")
    assert card == card_of(model)
    assert module.parameter_counts() == model.parameter_counts()
    return module


@torch.no_grad()
def assert_same(model: PoolingClassifier, module: FileClassifier, tolerance: float = 1e-5) -> None:
    for lengths in ([5, 1, 3], [1], [6, 6]):
        x, steps = clips(model.spec.features, lengths)
        x = x.float()
        expected = model(x, steps)
        for row, length in enumerate(lengths):
            x[row, length:] = 100
        assert_close(expected, module(x, steps), tolerance)


@pytest.mark.parametrize("form", READ)
@settings(max_examples=30, deadline=None)
@given(model=masked_models(), normalize=st.booleans())
def test_files_have_the_logits_of_the_compact_model(form: str, model: PoolingClassifier, normalize: bool) -> None:
    try:
        small = compact(model).float().eval()
    except InputError:
        return
    assert_same(small, file_of(small, form), 1e-4)


@pytest.mark.parametrize("form", READ)
@pytest.mark.parametrize("kind", ["dbof", "netvlad", "netfv"])
def test_plain_models_of_rows_of_length_one(kind: str, form: str) -> None:
    model = plain_model(kind, 1, normalize=True).float()
    assert_same(model, file_of(model, form))


@pytest.mark.parametrize("form", READ)
@pytest.mark.parametrize("kind", ["dbof", "netvlad", "netfv"])
def test_weights_in_8_bits_are_those_that_the_codes_stand_for(kind: str, form: str) -> None:
    model = plain_model(kind, 1).float()
    expected = copy.deepcopy(model)
    with torch.no_grad():
        for module in expected.modules():
            for name, weight in module.named_parameters(recurse=False):
                if weight.ndim == 2 and not (isinstance(module, NetFV) and name == "roots"):
                    weight.copy_(torch.from_numpy(by_rows(weight.numpy()).values()))
            if isinstance(module, NetFV):
                # What is stored is the deviations.
                spread = by_rows(deviation(module.roots).numpy()).values()
                module.roots.copy_((torch.from_numpy(spread) - 1e-6).sqrt())
    assert_same(expected, file_of(model, form, "int8"))


@pytest.mark.parametrize("form", READ)
def test_sure_logits_keep_their_digits(form: str) -> None:
    """Log-odds of hundreds, whose probabilities are 0 and 1 in floats."""
    model = plain_model("dbof", 1, experts=0).float()
    with torch.no_grad():
        for weight in model.experts.units.parameters():
            weight.mul_(300)
    x, steps = clips(model.spec.features, [4, 2])
    with torch.no_grad():
        assert float(model(x.float(), steps).abs().max()) > 100
    assert_same(model, file_of(model, form))


def test_c_and_torch_refuse_in_one_line(tmp_path: Path) -> None:
    model = plain_model().float()
    save_model(tmp_path / "pool.safetensors", model, card_of(model))
    for form, name in (("c", "m.c"), ("torch", "m.safetensors")):
        words = ["export", "--model", str(tmp_path / "pool.safetensors"), "--format", form]
        result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / name)])
        assert_refused(result, f"--format {form}: not for a pooling model")
        assert "say --format onnx" in result.stderr
        assert not (tmp_path / name).exists()
