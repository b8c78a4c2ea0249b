"""Training on clips without what a model does not see of them: the same numbers, and less to hold and to read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import assert_same_run, interrupted_and_resumed

from harvib import methods, stages
from harvib.cells import shape_of
from harvib.data import ClipSet
from harvib.metrics import evaluate
from harvib.models import ModelSpec, SequenceClassifier, State
from harvib.objectives import LossWeights, loss_terms
from harvib.reduction import reduced
from harvib.rundir import RunFolder
from harvib.settings import TrainSettings

CPU = torch.device("cpu")
FIELDS: dict[str, Any] = {
    "hidden": 5, "plain_epochs": 5, "vib_epochs": 6, "lasso_epochs": 5, "finetune_epochs": 6, "batch": 7,
    "lr": 1e-2, "vib_lr": 2e-3, "mask_lr": 0.1, "beta": 0.02, "beta_input": 0.02, "validation": 0.3,
}  # fmt: skip
WAYS: dict[str, dict[str, Any]] = {
    "fine-tuning": {"target_params": 200, "standardize": True},
    "selected": {"select_inputs": 4, "project": 3, "model": "gru", "target_ratio": 1.5},
    "mean": {"model": "mean", "target_ratio": 3.0, "standardize": True},
    "mean by lasso": {"model": "mean", "select_inputs": 9, "method": "lasso", "lasso_input": 0.01},
}


@st.composite
def clip_sets(draw: st.DrawFn) -> ClipSet:
    """Some of the clips of a cache in any order, with views or without, in any of the kinds of numbers stored."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    clips, dim, views = draw(st.integers(2, 6)), draw(st.integers(1, 9)), draw(st.integers(0, 2))
    lengths = rng.integers(1, draw(st.integers(1, 6)) + 1, size=(1 + views, clips))
    ends = lengths.cumsum().reshape(lengths.shape)
    spans = np.stack([ends - lengths, ends], axis=-1)
    rows = torch.from_numpy(rng.normal(2, 3, size=(int(ends[-1, -1]), dim)))
    dtype = draw(st.sampled_from((torch.float32, torch.float16, torch.uint8)))
    rows = (rows.abs() * 40).clamp(0, 255).to(dtype) if dtype == torch.uint8 else rows.to(dtype)
    chosen = rng.permutation(clips)[: draw(st.integers(2, clips))]
    offsets, labels = np.concatenate([[0], ends[0]]), torch.from_numpy(rng.integers(0, 3, size=clips))
    return ClipSet(rows, offsets, labels, chosen, spans[1:] if views else None)


@st.composite
def models(draw: st.DrawFn, dim: int) -> SequenceClassifier:
    """Any model that reads some of the features."""
    inputs = draw(st.integers(1, dim))
    cell = draw(st.sampled_from(("lstm", "rnn", "conv", "mlp", "mean", "mean")))
    state: State = draw(st.sampled_from(get_args(State)))
    readout, rate = draw(st.sampled_from(("mean", "mean", "last"))), draw(st.sampled_from((0.0, 0.5)))
    readout = "last" if cell == "mlp" else readout
    width = inputs if cell == "mean" else 3
    torch.manual_seed(draw(st.integers(0, 2**32)))
    model = SequenceClassifier(ModelSpec(cell, state, dim, inputs, shape_of(width), 3, readout, rate))
    model.selection.copy_(torch.randperm(dim)[:inputs].sort().values)
    if state != "compact":
        model.standardize_by(torch.randn(inputs), torch.rand(inputs) + 0.5)
    return model


def steps(model: SequenceClassifier, clips: ClipSet) -> list[torch.Tensor]:
    """Loss and gradients of all batches of an epoch, then what the model makes of the clips as they are stored."""
    model.train()
    torch.manual_seed(5)
    found: list[torch.Tensor] = []
    for batch in clips.shuffled(2, CPU, 3, 1):
        logits = model(batch.features, batch.lengths)
        loss, _ = loss_terms(model, logits, batch.labels, None, LossWeights(1e-3, 1e-3))
        found += [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]
    return [*found, torch.from_numpy(evaluate(model, clips, CPU).logits)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_loss_gradients_and_logits_are_those_of_the_whole_clips(data: st.DataObject) -> None:
    clips = data.draw(clip_sets())
    model = data.draw(models(clips.dim))
    spec, wanted = model.spec, steps(model, clips)
    with reduced(model, clips) as (seen,):
        found = steps(model, seen)
    assert model.spec == spec, "afterwards it is the model that it was"
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
    assert seen is clips or seen.rows.nbytes <= clips.rows.nbytes / 2, "no second copy of nearly the same size"
    few = 2 * spec.inputs <= spec.features
    assert seen.dim == (spec.inputs if few else clips.dim)
    if few and seen.rows.dtype == clips.rows.dtype != torch.float32:
        batch, whole = seen.batch(np.arange(len(seen)), CPU), clips.batch(np.arange(len(clips)), CPU)
        assert torch.equal(batch.features, whole.features[..., model.selection]), "bytes and half floats stay"


@pytest.mark.parametrize(("cell", "readout"), [("mean", "mean"), ("mlp", "last")])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint8])
def test_a_model_of_the_mean_is_given_the_mean_over_time_alone(dtype: Any, cell: str, readout: str) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.random((50, 4)) * 200).astype(dtype)
    clips = ClipSet(torch.from_numpy(rows), np.array([0, 10, 31, 50]), torch.zeros(3).long(), np.array([2, 0]))
    model = SequenceClassifier(ModelSpec(cell, "plain", 4, 4, ((4,),), 3, readout))
    with reduced(model, clips) as (seen,):
        batch = seen.batch(np.arange(2), CPU)
    scale = 255 if dtype is np.uint8 else 1
    means = [rows[start:stop].astype(float).mean(0) / scale for start, stop in ((31, 50), (0, 10))]
    assert batch.features.shape == (2, 1, 4)
    assert batch.features[:, 0].numpy() == pytest.approx(np.array(means), rel=1e-6)


@pytest.mark.parametrize(("cell", "readout"), [("mean", "last"), ("lstm", "mean"), ("conv", "mean")])
def test_what_sees_more_than_the_mean_keeps_its_steps(cell: str, readout: str) -> None:
    clips = ClipSet(torch.randn(40, 4), np.array([0, 20, 40]), torch.zeros(2).long(), np.arange(2))
    model = SequenceClassifier(ModelSpec(cell, "plain", 4, 4, ((4,),), 3, readout))
    with reduced(model, clips) as (seen,):
        assert seen is clips


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_cache(tmp_path_factory.mktemp("cache") / "c.h5", dim=12, dtype=np.float16, lengths=(8, 9, 11))


@contextmanager
def whole_clips(model: SequenceClassifier, *sets: ClipSet) -> Iterator[tuple[ClipSet, ...]]:
    yield sets


def run(cache: Path, folder: Path, **fields: Any) -> dict[str, Any]:
    return methods.train(cache, TEST_SPLIT, TrainSettings(**FIELDS | fields), folder, device=CPU)


@pytest.mark.parametrize("way", list(WAYS))
def test_a_run_is_the_one_on_whole_clips_up_to_rounding(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    report = run(cache, tmp_path / "reduced", **WAYS[way])
    monkeypatch.setattr(stages, "reduced", whole_clips)
    wanted = run(cache, tmp_path / "whole", **WAYS[way])
    for state in ("plain", "masked", "compact"):
        for key in ("accuracy", "parameters", "inputs", "units"):
            assert report[state][key] == wanted[state][key]
        assert report[state]["loss"] == pytest.approx(wanted[state]["loss"], rel=1e-2)
    ours, theirs = (RunFolder(tmp_path / name).rows() for name in ("reduced", "whole"))
    for mine, other in zip(ours, theirs, strict=True):
        assert float(mine["loss"]) == pytest.approx(float(other["loss"]), rel=1e-2)


@pytest.mark.parametrize(
    ("way", "stage", "epoch"),
    [("fine-tuning", "finetune", 3), ("fine-tuning", "finetune", 6), ("selected", "vib", 3), ("mean", "plain", 4),
     ("mean", "vib", 3), ("mean by lasso", "lasso", 3)],
)  # fmt: skip
def test_a_resumed_stage_on_reduced_clips_repeats_one_that_was_not_interrupted(
    cache: Path, tmp_path: Path, way: str, stage: str, epoch: int
) -> None:
    shapes: set[tuple[int, bool]] = set()

    def noted(fit: Any) -> Any:
        def fit_and_note(model: Any, which: Any, parts: Any, *rest: Any) -> Any:
            if which.name == stage:
                shapes.add((parts.train.dim, bool((np.diff(parts.train.offsets) <= 1).all())))
            return fit(model, which, parts, *rest)

        return fit_and_note

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "fit", noted(stages.fit))
        run(cache, tmp_path / "whole", **WAYS[way])
    ((dim, averaged),) = shapes
    assert averaged if way.startswith("mean") else dim <= 6, "this stage is a reduced one"
    interrupted_and_resumed(lambda: run(cache, tmp_path / "run", **WAYS[way]), stage, epoch)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
