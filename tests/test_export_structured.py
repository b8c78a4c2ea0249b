"""ONNX files of models with structured matrices: the same logits from weights, not from the dense matrix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from caches import TEST_SPLIT
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx_models import CARD, assert_close, padded
from rounded import rounded
from small_runs import assert_refused, small_run
from structured import small_of, spec_of
from test_factorised_cells import FORMS

from harvib.cli import main
from harvib.errors import InputError
from harvib.evaluate import evaluate_run
from harvib.export.matrices import Float32, Scheme
from harvib.export.onnx import to_onnx
from harvib.factorised import KINDS
from harvib.models import SequenceClassifier
from harvib.onnxfile import read_onnx
from harvib.quantize.schemes import SCHEMES

WEIGHTS_ONLY = ("int8-weights", "int4-weights")


def small_model(
    kind: str, form: dict[str, Any], seed: int, drop: float, hard: bool, **more: Any
) -> SequenceClassifier:
    """Compact; the masks keep the first of each and a random share of the others."""
    torch.manual_seed(seed)
    factors = {"factors": 2} if kind.startswith("circulant") and seed % 2 else {}
    masked = SequenceClassifier(spec_of(factorize=kind, **{**form, **factors, **more})).masked().eval()
    return small_of(masked, drop, hard)


def logits_of(small: SequenceClassifier, scheme: Scheme, lengths: tuple[int, ...]) -> torch.Tensor:
    module, card = read_onnx(to_onnx(small, CARD, scheme).SerializeToString(), "x")
    assert card == CARD
    assert module.parameter_counts() == small.parameter_counts()
    with torch.no_grad():
        return module(*padded_alike(small, lengths))


def padded_alike(small: SequenceClassifier, lengths: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(7)
    return padded(small.spec.features, lengths)


@settings(max_examples=120, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    form=st.sampled_from(FORMS),
    readout=st.sampled_from(["mean", "last"]),
    hard=st.booleans(),
    drop=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 10_000),
)
def test_onnxruntime_gives_the_compact_models_logits(
    kind: str, form: dict[str, Any], readout: str, hard: bool, drop: float, seed: int
) -> None:
    small = small_model(kind, form, seed, drop, hard, readout=readout)
    for lengths in ((7, 1, 4, 5), (1,)):
        with torch.no_grad():
            assert_close(small(*padded_alike(small, lengths)), logits_of(small, Float32(), lengths))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    form=st.sampled_from(FORMS),
    scheme=st.sampled_from(WEIGHTS_ONLY),
    seed=st.integers(0, 10_000),
)
def test_schemes_of_weights_round_what_the_matrix_is_made_of(
    kind: str, form: dict[str, Any], scheme: str, seed: int
) -> None:
    small = small_model(kind, form, seed, 0.3, True)
    expected = rounded(small, "4" in scheme)
    with torch.no_grad():
        assert_close(expected(*padded_alike(small, (5, 3))), logits_of(small, SCHEMES[scheme], (5, 3)))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_products_of_whole_numbers_are_refused_in_one_line(kind: str) -> None:
    small = small_model(kind, {"model": "linear"}, 0, 0.0, True)
    for scheme in ("int8-dynamic", "int8-static"):
        with pytest.raises(InputError, match="--to int8-weights --to int4-weights") as caught:
            to_onnx(small, CARD, SCHEMES[scheme])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("scheme", "bits"), [("", 32), ("int8-weights", 9), ("int4-weights", 5)])
def test_a_file_holds_the_weights_and_not_the_matrix(kind: str, scheme: str, bits: int) -> None:
    """64 outputs of 1024 inputs: 65,536 entries, of which a sparse matrix keeps about a twentieth."""
    with torch.no_grad():
        small = small_model(
            kind, {"model": "linear", "hidden": 64}, 0, 0.95 if kind == "sparse" else 0.0, True, inputs=1024
        )
    proto = to_onnx(small, CARD, SCHEMES[scheme] if scheme else Float32())
    numbers = sum(numpy_helper.to_array(tensor).nbytes for tensor in proto.graph.initializer)
    if scheme == "int4-weights":  # which numpy holds in a byte each
        numbers = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    weights = sum(matrix.parameter_count() for matrix in small.recurrent.matrices().values())
    # Two bytes for the place of an entry, or the input that is read; a byte for a fixed sign.
    places = 2 * (weights if kind == "sparse" else 0) + 2 * small.spec.inputs
    signs = 1024 if kind == "circulant-signs" else 0
    assert numbers <= weights * bits / 8 + places + signs + 3000
    assert numbers < 4 * 65_536 / 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    return small_run(folder, factorize="sparse", target_params=200)


def test_the_commands_write_and_measure_such_a_run(run: Path, tmp_path: Path) -> None:
    cache, out = str(run.parent / "cache.h5"), tmp_path / "m.onnx"
    result = CliRunner().invoke(main, ["export", "--model", str(run), "--format", "onnx", "--out", str(out)])
    assert result.exit_code == 0, result.output
    cpu = torch.device("cpu")
    ours, theirs = (evaluate_run(model, Path(cache), TEST_SPLIT, "test", cpu) for model in (run, out))
    assert theirs.pop("loss") == pytest.approx(ours.pop("loss"), abs=1e-5)
    assert theirs == ours
    words = ["quantize", "--model", str(run), "--features", cache, "--out", str(tmp_path), "--repeats", "2"]
    static = [*words, "--to", "int8-static"]
    assert_refused(CliRunner().invoke(main, static), "--to int8-weights --to int4-weights")
    chosen = [word for name in WEIGHTS_ONLY for word in ("--to", name)]
    result = CliRunner().invoke(main, [*words, *chosen])
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "quantize.json").read_text())
    assert set(told["schemes"]) == set(WEIGHTS_ONLY)
    assert told["schemes"]["int8-weights"]["parameters"]["total"] == ours["parameters"]["total"] <= 200
