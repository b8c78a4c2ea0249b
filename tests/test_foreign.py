"""`harvib prune`: classifiers made by torch alone, read, checked, and pruned."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import CLASSES, TEST_SPLIT, made_up_cache
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harvib.cli import main
from harvib.errors import InputError
from harvib.foreign import read_foreign
from harvib.models import recurrent
from harvib.rundir import RunFolder
from harvib.weights import load_model

DIM, HIDDEN = 6, 5
QUICK = ("--vib-epochs=2", "--finetune-epochs=2", "--batch=8", "--device=cpu", "--split", TEST_SPLIT)


class Classifier(nn.Module):
    """As people write one; `readout` as harvib names it."""

    def __init__(
        self, kind: Callable[..., nn.RNNBase], readout: str = "last", head_bias: bool = True, **options: Any
    ):
        super().__init__()
        self.readout = readout
        self.encoder = kind(DIM, HIDDEN, batch_first=True, **options)
        self.both = self.encoder.bidirectional
        self.fc = nn.Linear(HIDDEN * (2 if self.both else 1), len(CLASSES), bias=head_bias)

    def forward(self, x: Tensor) -> Tensor:
        output, state = self.encoder(x)
        if self.readout == "mean":
            return self.fc(output.mean(1))
        h = state[0] if isinstance(state, tuple) else state
        return self.fc(torch.cat([h[-2], h[-1]], 1) if self.both else h[-1])


def saved(path: Path, change: Callable[[dict[str, Tensor]], Any] | None = None, **options: Any) -> Path:
    """A classifier's weights as safetensors, changed before they are written; an LSTM unless told."""
    torch.manual_seed(0)
    weights = Classifier(**{"kind": nn.LSTM, **options}).state_dict()
    if change is not None:
        change(weights)
    save_file(weights, path)
    return path


def refusal(path: Path, nonlinearity: str | None = None) -> str:
    with pytest.raises(InputError) as error:
        read_foreign(path, "last", nonlinearity)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))
    return str(error.value)


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(["lstm", "gru", "rnn", "rnn-relu"]),
    readout=st.sampled_from(["last", "mean"]),
    layers=st.integers(1, 3),
    both=st.booleans(),
    bias=st.booleans(),
    head_bias=st.booleans(),
    form=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_torch_classifier_is_read_with_its_logits(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    readout: str,
    layers: int,
    both: bool,
    bias: bool,
    head_bias: bool,
    form: torch.dtype,
) -> None:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    options: dict[str, Any] = {"num_layers": layers, "bidirectional": both, "bias": bias}
    nonlinearity = {"rnn": "tanh", "rnn-relu": "relu"}.get(kind)
    if nonlinearity:
        options["nonlinearity"] = nonlinearity
    torch_kind: Any = {"lstm": nn.LSTM, "gru": nn.GRU}.get(kind, nn.RNN)
    theirs = Classifier(torch_kind, readout, head_bias, **options).to(form)
    save_file(theirs.state_dict(), path)
    found = read_foreign(path, readout, nonlinearity)
    x = torch.randn(3, 7, DIM)
    with torch.no_grad():
        torch.testing.assert_close(
            found.classifier(x, torch.tensor([7, 7, 7])), theirs.float()(x), rtol=1e-5, atol=1e-6
        )
    assert found.classifier.spec.shape == ((HIDDEN,) * (1 + both),) * layers


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_a_torchscript_file_gives_the_same_model_as_safetensors(tmp_path: Path, how: str) -> None:
    torch.manual_seed(0)
    model = Classifier(nn.GRU, "mean", num_layers=2)
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    script: Any = torch.jit.script(model) if how == "script" else torch.jit.trace(model, torch.randn(2, 4, DIM))
    script.save(str(tmp_path / "m.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_foreign(tmp_path / "m.pt", "mean").classifier.state_dict()
    expected = read_foreign(tmp_path / "m.safetensors", "mean").classifier.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


class Sly(nn.Module):
    """Its file brings code that TorchScript runs while it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.zeros(1)
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_files_that_may_run_code_are_refused(tmp_path: Path) -> None:
    pickled, sly, torn = tmp_path / "m.pth", tmp_path / "sly.pt", tmp_path / "torn.pt"
    torch.save(Classifier(nn.LSTM).state_dict(), pickled)
    assert "save_file(model.state_dict(), ...)" in refusal(pickled)
    torch.jit.script(Sly()).save(str(sly))
    assert "runs while it is read" in refusal(sly)
    with zipfile.ZipFile(torn, "w") as archive:
        archive.writestr("m/constants.pkl", b"")
        archive.writestr("m/code/m.py", b"no code")
    assert "not a readable TorchScript file" in refusal(torn)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_a_damaged_torchscript_file_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.jit.script(Classifier(nn.LSTM)).save(str(path))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    told = []
    for _ in range(60):
        damaged = bytearray(whole)
        for place in rng.integers(4, len(whole), 12):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_foreign(path, "last")
        except InputError as error:
            told.append(str(error))
    assert len(told) > 20
    assert not any("\n" in line for line in told)


def test_what_is_no_such_classifier_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    assert "no such model file" in refusal(path)
    path.write_bytes(b"\x08" + bytes(40))
    assert "neither a safetensors nor a TorchScript file" in refusal(path)
    save_file(nn.LSTM(DIM, HIDDEN, proj_size=2).state_dict() | {"fc.weight": torch.zeros(3, 2)}, path)
    assert "proj_size" in refusal(path)
    saved(path, kind=nn.RNN)
    assert "say --nonlinearity tanh or relu" in refusal(path)
    saved(path)
    assert "leave out --nonlinearity" in refusal(path, "tanh")

    def after(change: Callable[[dict[str, Tensor]], Any], **options: Any) -> str:
        return refusal(saved(path, change, **options))

    def second_linear(weights: dict[str, Tensor]) -> None:
        weights |= {
            "norm.running_mean": torch.zeros(3),
            "fc2.weight": torch.zeros(3, 3),
            "fc2.bias": torch.zeros(3),
        }

    assert "only one nn.Linear, its head, can be read; there are also fc2.bias, fc2.weight" in after(second_linear)
    assert "found fc.bias" in after(lambda w: w.pop("fc.weight"))
    assert "no weights of an nn.LSTM" in after(
        lambda w: [w.pop(name) for name in list(w) if name.startswith("encoder")]
    )
    assert "several recurrent parts (encoder, other)" in after(
        lambda w: w.update({"other.weight_ih_l0": torch.zeros(20, 6)})
    )
    assert "bias_hh_l1_reverse is missing" in after(
        lambda w: w.pop("encoder.bias_hh_l1_reverse"), num_layers=2, bidirectional=True
    )
    assert "weight_ih_l1 is (20, 4)" in after(
        lambda w: w.update({"encoder.weight_ih_l1": torch.zeros(20, 4)}), num_layers=2
    )
    assert "weight_hh_l0 is 10 x 5" in after(lambda w: w.update({"encoder.weight_hh_l0": torch.zeros(10, 5)}))
    assert "the head fc.weight reads 4 values, the recurrent part has 5" in after(
        lambda w: w.update({"fc.weight": torch.zeros(3, 4)})
    )
    assert "fc.weight holds NaN or infinity" in after(lambda w: w["fc.weight"].fill_(float("inf")))
    assert "encoder.weight_hh_l0 is torch.int8" in after(
        lambda w: w.update({"encoder.weight_hh_l0": torch.zeros(20, 5, dtype=torch.int8)})
    )


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["prune", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_options_that_the_given_model_decides_are_not_offered(tmp_path: Path) -> None:
    """They would stand in the new run's settings, and nothing would come of them."""
    path = saved(tmp_path / "m.safetensors")
    cache = made_up_cache(tmp_path / "c.h5", dim=DIM)
    for option in ("--normalize", "--clusters=8", "--gating", "--hidden=8"):
        code, _, errors = run("--model", path, "--readout=last", "--features", cache, option, *QUICK)
        assert (code, "No such option" in errors) == (2, True), option


def test_what_is_no_foreign_model_is_told_before_what_is_not_said_of_it(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match="no such model file"):
            read_foreign(path)


def test_prune_leaves_a_run_that_started_from_the_given_model(tmp_path: Path) -> None:
    cache = made_up_cache(tmp_path / "c.h5", dim=DIM)
    path = saved(tmp_path / "m.safetensors", kind=nn.GRU, num_layers=2, bidirectional=True)
    given = ("--model", path, "--readout=last", "--features", cache, "--run-dir", tmp_path / "run", *QUICK)
    code, text, errors = run(*given)
    assert code == 0, errors
    assert "gru with 6 inputs, 5 hidden units, 2 layers, both directions; readout last; 3 classes" in errors
    assert text.rstrip().endswith(f"run folder: {tmp_path / 'run'}")
    plain, card = load_model(RunFolder(tmp_path / "run").plain)
    assert card.classes == CLASSES
    stored = dict(recurrent(plain, "").recurrent.named_parameters())
    assert torch.equal(
        stored["layers.1.cells.1.gru.weight_hh_l0"], load_file(path)["encoder.weight_hh_l1_reverse"]
    )
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["compaction"]["max_abs_difference"] <= 1e-5
    assert report["seconds"]["plain"] == 0
    assert {row["stage"] for row in RunFolder(tmp_path / "run").rows()} == {"vib", "finetune"}
    # The same command again returns the same report; another model is not mistaken for this one.
    assert run(*given)[1] == text
    saved(path, lambda weights: weights["fc.bias"].add_(1), kind=nn.GRU, num_layers=2, bidirectional=True)
    code, _, errors = run(*given)
    assert code == 2
    assert "holds a run with init = " in errors


def test_prune_by_group_lasso_keeps_to_the_given_model(tmp_path: Path) -> None:
    cache = made_up_cache(tmp_path / "c.h5", dim=DIM)
    path = saved(tmp_path / "m.safetensors")
    given = ("--model", path, "--readout=last", "--features", cache, "--run-dir", tmp_path / "run", *QUICK)
    code, _, errors = run(*given, "--method=plain")
    assert (code, errors.splitlines()[-1]) == (2, "harvib: --method plain prunes nothing: choose another")
    code, _, errors = run(*given, "--method=lasso", "--lasso=0.01", "--lasso-epochs=2")
    assert code == 0, errors
    plain, _ = load_model(RunFolder(tmp_path / "run").plain)
    stored = dict(recurrent(plain, "").recurrent.named_parameters())
    assert torch.equal(stored["layers.0.cells.0.lstm.weight_hh_l0"], load_file(path)["encoder.weight_hh_l0"])


def test_a_model_that_does_not_fit_the_cache_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors")
    arguments = ("--model", path, "--readout=last", "--run-dir", tmp_path / "run", *QUICK, "--features")
    code, _, errors = run(*arguments, made_up_cache(tmp_path / "wide.h5", dim=DIM + 1))
    assert (code, errors.splitlines()[-1]) == (
        2,
        f"harvib: {path} reads 6 values a step; {tmp_path / 'wide.h5'} has 7",
    )
    code, _, errors = run(*arguments, made_up_cache(tmp_path / "four.h5", dim=DIM, classes=("a", "b", "c", "d")))
    assert (code, errors.splitlines()[-1]) == (2, f"harvib: {path} has 3 classes; {tmp_path / 'four.h5'} has 4")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--hidden", "--project"])
def test_prune_has_no_option_that_the_model_decides(tmp_path: Path, option: str) -> None:
    code, _, errors = run("--model", saved(tmp_path / "m.safetensors"), "--readout=last", f"{option}=4")
    assert code == 2
    assert "No such option" in errors
    assert option in errors
    assert run("--help")[1].count("--model") == 1


def test_a_model_of_harvib_is_sent_to_init(tmp_path: Path) -> None:
    cache = made_up_cache(tmp_path / "c.h5", dim=DIM)
    path = saved(tmp_path / "m.safetensors")
    run("--model", path, "--readout=last", "--features", cache, "--run-dir", tmp_path / "run", *QUICK)
    assert "harvib train --init" in refusal(RunFolder(tmp_path / "run").plain)
