"""harvib.streaming: at every row the logits are those of the model on the rows so far."""

from __future__ import annotations

from typing import Any

import pooling_models
import pytest
import structured
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from structured import small_of
from test_compact import masked_model, set_mask
from test_factorised_cells import FORMS
from torch import Tensor

from harvib.classifier import Classifier
from harvib.compact import compact
from harvib.errors import InputError
from harvib.export.matrices import Float32
from harvib.export.onnx import to_onnx
from harvib.factorised import KINDS
from harvib.models import ModelSpec, SequenceClassifier
from harvib.onnxfile import read_onnx
from harvib.streaming import MOST_ROWS, Replay, Running, Stream, running, why_not
from harvib.weights import ModelCard

CELLS = ("conv", "gru", "linear", "lstm", "mean", "mlp", "rnn", "rnn-relu")
ALONE = ("linear", "mean", "mlp")
CPU = torch.device("cpu")


def in_state(masked: SequenceClassifier, state: str, drop: float, hard: bool = False) -> SequenceClassifier:
    """The masked model, or a plain or compact one of the same shape."""
    if state == "plain":
        return SequenceClassifier(ModelSpec(**{**vars(masked.spec), "state": "plain"})).eval()
    small = small_of(masked, drop, hard)
    return masked if state == "masked" else small


def assert_follows(stream: Running, model: Classifier, steps: int) -> None:
    """Row by row, twice: nothing is left of the first time."""
    for _ in range(2):
        x = torch.randn(steps, model.spec.features)
        stream.restart()
        for step in range(1, steps + 1):
            with torch.no_grad():
                wanted = model(x[None, :step], torch.tensor([step]))[0]
            found = stream.see(x[step - 1])
            assert found.shape == wanted.shape
            assert float((found - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


@settings(max_examples=80, deadline=None)
@given(
    cell=st.sampled_from(CELLS),
    state=st.sampled_from(["plain", "masked", "compact"]),
    readout=st.sampled_from(["mean", "last"]),
    layers=st.integers(1, 3),
    project=st.sampled_from([0, 5]),
    kernel=st.sampled_from([1, 2, 5]),
    hard=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_every_causal_model_follows_its_clip(
    cell: str, state: str, readout: str, layers: int, project: int, kernel: int, hard: bool, seed: int
) -> None:
    options: dict[str, Any] = {} if cell in ALONE else {"layers": layers, "project": project}
    if cell == "conv":
        options["kernel"] = kernel
    masked = masked_model(cell, features=9, inputs=7, hidden=6, seed=seed, readout=readout, **options)
    model = in_state(masked, state, 0.4, hard)
    assert why_not(model) is None
    assert_follows(Stream(model), model, 9)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    form=st.sampled_from(FORMS),
    state=st.sampled_from(["plain", "masked", "compact"]),
    readout=st.sampled_from(["mean", "last"]),
    hard=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_so_do_those_with_structured_matrices(
    kind: str, form: dict[str, Any], state: str, readout: str, hard: bool, seed: int
) -> None:
    factors: dict[str, Any] = {"factors": 2} if kind.startswith("circulant") and seed % 2 else {}
    masked = structured.masked_model(factorize=kind, readout=readout, seed=seed, **form, **factors)
    model = in_state(masked, state, 0.4, hard)
    assert_follows(Stream(model), model, 5)


@pytest.mark.parametrize("cell", ["lstm", "mean"])
def test_rows_of_length_one_and_other_precisions_are_the_models_own(cell: str) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(cell, "plain", 6, 6, ((6,),), 3, normalize=True)
    model = SequenceClassifier(spec).eval()
    assert_follows(Stream(model), model, 4)
    half = torch.randn(5, 6).half()
    stream = Stream(model)
    logits = [stream.see(row) for row in half][-1]
    with torch.no_grad():
        wanted = model(half[None].float(), torch.tensor([5]))[0]
    assert torch.allclose(logits, wanted, atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "conv", "mlp"])
def test_a_row_costs_the_same_however_many_came_before(cell: str) -> None:
    """What is carried does not grow."""
    stream = Stream(masked_model(cell, layers=1 if cell == "mlp" else 2))
    sizes = []
    for _ in range(30):
        stream.see(torch.randn(6))
        sizes.append(sum(tensor.numel() for left in stream._carried for tensor in left))
    assert sizes[5] == sizes[-1] > 0


def test_a_long_stream_loses_no_digits() -> None:
    """The mean over 20,000 rows, against one in float64."""
    torch.manual_seed(0)
    model = SequenceClassifier(ModelSpec("mean", "plain", 3, 3, ((3,),), 2)).eval()
    stream, x = Stream(model), 100 + torch.randn(20_000, 3)
    for row in x:
        logits = stream.see(row)
    with torch.no_grad():
        wanted = model.double()(x[None].double(), torch.tensor([len(x)]))[0]
    assert float((logits - wanted).abs().max() / wanted.abs().max()) < 1e-6


def test_what_cannot_be_carried_on_is_computed_anew() -> None:
    both = masked_model("lstm", bidirectional=True)
    pooled = pooling_models.plain_model().float()
    small = small_of(masked_model("gru", features=9, inputs=7), 0.3, True)
    data = to_onnx(small, ModelCard(tuple("abcd"), "f"), Float32()).SerializeToString()
    exported, _ = read_onnx(data, "here")
    for model, features, why in ((both, 6, "backwards"), (pooled, 7, "pools"), (exported, 9, "no state")):
        told = why_not(model)
        assert told is not None
        assert why in told
        with pytest.raises(InputError, match=why):
            Stream(model)
        stream = running(model, features, CPU)
        assert isinstance(stream, Replay)
        assert not stream.carries
        assert_follows(stream, small if model is exported else model, 4)  # type: ignore[arg-type]


def test_of_both_directions_compaction_may_leave_one_that_can_be_carried() -> None:
    masked = masked_model("lstm", bidirectional=True)
    _, (_, backward) = masked.recurrent.layers[0].directions()  # type: ignore[operator]
    for mask in backward.all_masks().values():
        set_mask(mask, [False] * mask.mu.numel())
    small = compact(masked)
    assert_follows(Stream(small), small, 5)


def test_wrong_rows_and_too_many_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(masked_model())
    for row in (torch.zeros(5), torch.zeros(1, 6), torch.zeros(6, 1)):
        with pytest.raises(InputError, match="made for 6 values"):
            stream.see(row)
    assert MOST_ROWS > 1000
    monkeypatch.setattr("harvib.streaming.MOST_ROWS", 3)
    replay = Replay(masked_model(), 6, CPU)
    for _ in range(3):
        replay.see(torch.zeros(6))
    with pytest.raises(InputError, match="--restart-every 3 or less"):
        replay.see(torch.zeros(6))
    replay.restart()
    replay.see(torch.zeros(6))


def test_a_stream_is_not_disturbed_by_another_of_the_same_model() -> None:
    model = masked_model("gru")
    first, second = Stream(model), Stream(model)
    x: Tensor = torch.randn(4, 6)
    alone = [first.see(row) for row in x]
    first.restart()
    for row, wanted in zip(x, alone, strict=True):
        second.see(torch.randn(6))
        assert torch.equal(first.see(row), wanted)
