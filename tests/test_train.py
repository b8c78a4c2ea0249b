"""harvib.train: the loop's optimiser, warm-up, clipping, selection, and that no valid setting ends in NaN."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import TEST_SPLIT, made_up_cache
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harfeat.cache import ClipRow, open_cache
from harvib import methods, outcome, train
from harvib.cells import shape_of
from harvib.checkpoint import Checkpoint
from harvib.compact import compact
from harvib.data import Batch, ClipSet, Parts, load_parts
from harvib.errors import InputError
from harvib.metrics import evaluate
from harvib.models import ModelSpec, SequenceClassifier
from harvib.objectives import LossWeights, loss_terms, soft_target_loss
from harvib.settings import TrainSettings
from harvib.train import Row, Stage, fit

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"hidden": 4, "plain_epochs": 2, "vib_epochs": 2, "finetune_epochs": 2, "batch": 8}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    with open_cache(made_up_cache(tmp_path_factory.mktemp("cache") / "c.h5")) as cache:
        return load_parts(cache, TEST_SPLIT, 0.3, 0)


def masked_model(seed: int = 0) -> SequenceClassifier:
    torch.manual_seed(seed)
    return SequenceClassifier(ModelSpec("lstm", "plain", 6, 6, shape_of(4), 3)).masked()


def run(
    model: SequenceClassifier,
    parts: Parts,
    folder: Path,
    select_best: bool = False,
    epochs: int = 4,
    **fields: Any,
) -> list[Row]:
    """The rows of one stage of training."""
    rows: list[Row] = []
    chosen = TrainSettings(**{**TINY, **fields})
    stage = Stage("vib", 2, epochs, chosen.vib_lr, select_best, "--vib-lr")
    fit(model, stage, parts, chosen, CPU, Checkpoint(folder / "last"), rows.append)
    return rows


class Spy(torch.optim.AdamW):
    """Notes the groups of every step and the norm of the gradient that reaches it."""

    steps: list[dict[str, Any]]

    def step(self, closure: Any = None) -> Any:
        norm = math.sqrt(sum(float(p.grad.square().sum()) for group in self.param_groups for p in group["params"]))
        self.steps.append({"rates": [group["lr"] for group in self.param_groups], "norm": norm})
        return super().step(closure)


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    monkeypatch.setattr(Spy, "steps", steps, raising=False)
    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    return steps


def test_masks_do_not_decay_and_weights_do(parts: Parts, tmp_path: Path) -> None:
    # No clip teaches anything where the learning rate is the same and the gradient is clipped to nothing; what
    # is left is the decay, (1 - rate * decay) a step.
    def after(decay: float) -> SequenceClassifier:
        model = masked_model()
        run(model, parts, tmp_path / str(decay), weight_decay=decay, vib_lr=1e-2, beta=0, beta_input=0, mask_lr=0)
        return model

    with_decay, without, start = after(20.0), after(0.0), masked_model()
    for name, mask in start.masks().items():
        assert torch.equal(mask.mu, with_decay.masks()[name].mu), "mask rate zero: nothing may move a mask"
        assert torch.equal(mask.log_variance, with_decay.masks()[name].log_variance)
    assert float(with_decay.head.weight.detach().norm()) < 0.7 * float(without.head.weight.detach().norm())


def test_optimizer_groups_are_weights_with_decay_and_masks_without() -> None:
    model = masked_model()
    chosen = TrainSettings(weight_decay=0.1, mask_lr=0.5)
    weights, masks = train._optimizer(model, Stage("vib", 2, 1, 0.01, False, ""), chosen).param_groups
    of_masks = {id(weight) for mask in model.masks().values() for weight in mask.parameters()}
    assert {id(weight) for weight in masks["params"]} == of_masks
    assert len(of_masks) == 10
    assert {id(w) for w in weights["params"]} == {id(w) for w in model.parameters()} - of_masks
    assert (masks["weight_decay"], masks["lr"]) == (0.0, 0.5)
    assert (weights["weight_decay"], weights["lr"]) == (0.1, 0.01)


def test_rates_fall_by_half_a_cosine_and_masks_have_their_own(
    parts: Parts, tmp_path: Path, spied: list[dict[str, Any]]
) -> None:
    run(masked_model(), parts, tmp_path, vib_lr=1e-3, mask_lr=0.3)
    for number, step in enumerate(spied):
        share = 0.5 * (1 + math.cos(math.pi * number / len(spied)))
        assert step["rates"] == pytest.approx([1e-3 * share, 0.3 * share])


def test_gradients_are_clipped_to_the_norm(parts: Parts, tmp_path: Path, spied: list[dict[str, Any]]) -> None:
    run(masked_model(), parts, tmp_path, clip_norm=1e-3, beta=10.0)
    assert spied
    assert all(step["norm"] == pytest.approx(1e-3, rel=1e-3) for step in spied)


def test_kl_weight_grows_linearly_from_zero_to_full(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[LossWeights] = []
    genuine = train.loss_terms

    def spy(*arguments: Any) -> Any:
        used.append(arguments[-1])
        return genuine(*arguments)

    monkeypatch.setattr(train, "loss_terms", spy)
    run(masked_model(), parts, tmp_path, epochs=5, warmup=0.4, beta=2.0, beta_input=3.0)
    full = 0.4 * len(used)
    assert used[0].beta == used[0].beta_input == 0
    for number, weights in enumerate(used):
        assert weights.beta == pytest.approx(2.0 * min(1, number / full))
        assert weights.beta_input == pytest.approx(3.0 * min(1, number / full))
    used.clear()
    run(masked_model(), parts, tmp_path / "other", epochs=1, warmup=0.0, beta=2.0)
    assert {weights.beta for weights in used} == {2.0}


def test_loss_is_cross_entropy_plus_weighted_kls_plus_soft_targets() -> None:
    torch.manual_seed(0)
    model = masked_model()
    logits, teacher, labels = torch.randn(7, 3), torch.randn(7, 3), torch.arange(7) % 3
    kl = {
        name: np.log1p(
            mask.mu.detach().double().numpy() ** 2 / mask.log_variance.detach().double().exp().numpy()
        ).sum()
        for name, mask in model.masks().items()
    }

    def softened(values: torch.Tensor, temperature: float) -> np.ndarray:
        powers = np.exp(values.double().numpy() / temperature)
        return powers / powers.sum(1, keepdims=True)

    entropy = -np.log(softened(logits, 1)[np.arange(7), labels.numpy()]).mean()
    target, ours = softened(teacher, 3), softened(logits, 3)
    soft = 9 * (target * np.log(target / ours)).sum(1).mean()
    loss, terms = loss_terms(model, logits, labels, teacher, LossWeights(0.1, 0.2, 0.25, 3.0))
    expected = 0.75 * entropy + 0.25 * soft + 0.1 * sum(kl[gate] for gate in "ifgo") + 0.2 * kl["input"]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(terms["ce"].detach()) == pytest.approx(entropy, rel=1e-5)
    assert float(terms["kl_input"].detach()) == pytest.approx(kl["input"], rel=1e-5)
    assert float(soft_target_loss(logits, logits, 3.0)) == pytest.approx(0, abs=1e-6)


def test_the_best_epoch_of_the_last_quarter_by_validation_accuracy_then_loss_is_kept(
    parts: Parts, tmp_path: Path
) -> None:
    model = masked_model()
    rows = run(model, parts, tmp_path, select_best=True, epochs=16, vib_lr=0.2, mask_lr=0.3, beta=0.02)
    best = max(rows[12:], key=lambda row: (row["val_accuracy"], -float(row["val_loss"])))
    found = evaluate(model, parts.validation, CPU)
    assert (found.accuracy, found.loss) == (best["val_accuracy"], best["val_loss"])
    assert best is not rows[-1], "the case must tell best from last"


def test_every_epoch_and_every_stage_has_its_own_order_of_clips(
    flat_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[list[int]] = []
    genuine = ClipSet.shuffled

    def spy(self: ClipSet, *arguments: Any) -> Iterator[Batch]:
        batches = list(genuine(self, *arguments))
        orders.append([position for batch in batches for position in batch.positions.tolist()])
        return iter(batches)

    monkeypatch.setattr(ClipSet, "shuffled", spy)
    methods.train(flat_cache, TEST_SPLIT, TrainSettings(**TINY), tmp_path / "run", device=CPU)
    assert len(orders) == 6
    assert len({tuple(order) for order in orders}) == 6


def test_the_last_epoch_is_kept_where_the_penalty_grows(parts: Parts, tmp_path: Path) -> None:
    model = masked_model()
    rows = run(model, parts, tmp_path, select_best=False, epochs=8, vib_lr=0.1, mask_lr=0.3, beta=0.05)
    found = evaluate(model, parts.validation, CPU)
    assert (found.accuracy, found.loss) == (rows[-1]["val_accuracy"], rows[-1]["val_loss"])


def test_rows_tell_loss_parts_and_what_is_kept(parts: Parts, tmp_path: Path) -> None:
    (row, *_) = run(masked_model(), parts, tmp_path, warmup=0.0, beta=0.5, beta_input=0.25)
    loss = float(row["ce"]) + 0.5 * float(row["kl_gates"]) + 0.25 * float(row["kl_input"])
    assert float(row["loss"]) == pytest.approx(loss, rel=1e-5)
    assert (row["stage"], row["epoch"], row["inputs_kept"], row["units_kept"]) == ("vib", 1, 6, 4)


@pytest.fixture(scope="module")
def flat_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the features are constant, one of them large."""

    def flatten(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        for values in features:
            values[:, 3:] = (0.0, 7.5, 12345.678)
        return rows, features

    return made_up_cache(tmp_path_factory.mktemp("flat") / "c.h5", change=flatten)


VALID = {
    "model": st.sampled_from(["lstm", "conv", "mlp", "mean"]),
    "hidden": st.integers(1, 6),
    "readout": st.sampled_from(["auto", "last"]),
    "standardize": st.booleans(),
    "select_inputs": st.integers(0, 6),
    "dropout": st.sampled_from([0.0, 0.2, 0.95]),
    "label_smoothing": st.sampled_from([0.0, 0.5]),
    "beta": st.sampled_from([0.0, 1e-5, 1.0, 1e4, 1e300]),
    "beta_input": st.sampled_from([0.0, 1e-5, 1.0, 1e4, 1e30]),
    "warmup": st.sampled_from([0.0, 0.3, 1.0]),
    "distill": st.sampled_from([0.0, 0.5, 1.0]),
    "temperature": st.sampled_from([0.1, 2.0, 1e6]),
    "finetune_epochs": st.integers(0, 1),
    "keep_scales": st.booleans(),
    "batch": st.sampled_from([1, 5, 1000]),
    "lr": st.sampled_from([0.0, 1e-3, 10.0, 1e6]),
    "vib_lr": st.sampled_from([0.0, 1e-4, 10.0]),
    "mask_lr": st.sampled_from([0.0, 1e-2, 5.0, 1e6]),
    "finetune_lr": st.sampled_from([0.0, 1e-3, 1e6]),
    "weight_decay": st.sampled_from([0.0, 0.1, 1e6]),
    "clip_norm": st.sampled_from([1e-6, 1.0, 1e300]),
    "validation": st.sampled_from([0.01, 0.2, 0.5]),
    "seed": st.sampled_from([0, 2**32 - 1]),
}


def finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(finite(item) for item in value.values())
    return not isinstance(value, float) or math.isfinite(value)


@given(st.fixed_dictionaries(VALID))
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_valid_setting_ends_in_finite_figures_or_one_clear_line(
    flat_cache: Path, tmp_path_factory: pytest.TempPathFactory, fields: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    chosen = TrainSettings(plain_epochs=1, vib_epochs=2, **fields)
    try:
        report = methods.train(flat_cache, TEST_SPLIT, chosen, folder / "run", device=CPU)
    except InputError as error:
        message = str(error)
        assert "\n" not in message
        assert ("diverged" in message and "lower --" in message) or "is left after VIB training" in message
        return
    assert finite(report)
    assert report["compaction"]["max_abs_difference"] <= 1e-5


def test_features_far_from_zero_end_in_a_report(tmp_path: Path) -> None:
    def lift(rows: list[ClipRow], features: list[np.ndarray]) -> tuple[list[ClipRow], list[np.ndarray]]:
        return rows, [np.add(values, 5000) for values in features]

    cache = made_up_cache(tmp_path / "c.h5", change=lift)
    report = methods.train(
        cache, TEST_SPLIT, TrainSettings(**TINY, standardize=True), tmp_path / "run", device=CPU
    )
    assert finite(report)
    assert 0 < report["compaction"]["max_abs_difference"] < 0.1


def test_a_compaction_that_is_not_exact_is_a_defect_and_no_users_error(
    flat_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(masked: SequenceClassifier) -> SequenceClassifier:
        small = compact(masked)
        with torch.no_grad():
            small.head.bias.add_(1e-3)
        return small

    for module in (methods, outcome):
        monkeypatch.setattr(module, "compact", spoiled)
    with pytest.raises(RuntimeError, match="differ by"):
        methods.train(flat_cache, TEST_SPLIT, TrainSettings(**TINY), tmp_path / "run", device=CPU)


def test_a_huge_beta_says_that_nothing_is_left(flat_cache: Path, tmp_path: Path) -> None:
    for name, option in (("beta", "--beta"), ("beta_input", "--beta-input")):
        fields = {
            **TINY,
            "batch": 3,
            "vib_epochs": 14,
            "mask_lr": 0.1,
            "warmup": 0.0,
            "beta": 0.0,
            "beta_input": 0.0,
        }
        chosen = TrainSettings(**{**fields, name: 50.0})
        with pytest.raises(InputError, match=f"no .* is left after VIB training: .* lower {option}$"):
            methods.train(flat_cache, TEST_SPLIT, chosen, tmp_path / name, device=CPU)


@pytest.mark.parametrize(
    ("fields", "stage", "remedy"),
    [
        ({"lr": 1e6, "weight_decay": 1e6}, "plain", "--lr"),
        ({"mask_lr": 1e6, "vib_lr": 0.0}, "vib", "--vib-lr, --mask-lr or the betas"),
        ({"finetune_lr": 1e6, "weight_decay": 1e6, "lr": 0.0, "vib_lr": 0.0}, "finetune", "--finetune-lr"),
    ],
)
def test_a_training_that_diverges_names_what_to_lower(
    flat_cache: Path, tmp_path: Path, fields: dict[str, Any], stage: str, remedy: str
) -> None:
    chosen = TrainSettings(**{**TINY, "batch": 3, "beta": 0.0, "beta_input": 0.0, **fields})
    with pytest.raises(InputError, match=rf"^training diverged in the {stage} stage: .* lower {remedy}$"):
        methods.train(flat_cache, TEST_SPLIT, chosen, tmp_path / "run", device=CPU)
