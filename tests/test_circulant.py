"""harvib.factorised.circulant: the layer is the matrix that its definition says, with the published counts."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import bench_circulant

from harvib.factorised import KINDS, Factor
from harvib.factorised.circulant import Circulant, Diagonal, parameters
from harvib.factorised.circulant_matrix import CIRCULANTS, CirculantMatrix, circulant


def by_hand(layer: Circulant) -> Tensor:
    """The matrix (rows, columns) from w and the diagonals, entry by entry as the paper defines it."""
    size, layer = layer.size, copy.deepcopy(layer).requires_grad_(False)
    places = range(layer.columns) if layer.positions is None else layer.positions.tolist()
    blocks = []
    for block in range(layer.blocks):
        product = torch.eye(size, dtype=torch.float64)
        for factor in range(layer.factors):
            step = torch.zeros(size, size, dtype=torch.float64)
            for n in range(size):
                if layer.d is None:
                    scale = 1.0
                elif factor == 0:
                    scale = float(layer.d[block, list(places).index(n)]) if n in places else 0.0
                else:
                    assert layer.inner is not None
                    scale = float(layer.inner[factor - 1, block, n])
                for m in range(size):
                    step[n, m] = scale * float(layer.w[factor, block, (n - m) % size])
            product = product @ step
        blocks.append(product[list(places)])
    return torch.cat(blocks, dim=1)[:, : layer.rows].T


@st.composite
def layers(draw: st.DrawFn) -> Circulant:
    torch.manual_seed(draw(st.integers(0, 2**31)))
    diagonal: Diagonal = draw(st.sampled_from(get_args(Diagonal)))
    columns, rows = draw(st.integers(1, 9)), draw(st.integers(1, 21))
    factors = 1 if diagonal == "none" else draw(st.integers(1, 3))
    if not draw(st.booleans()):
        return Circulant(rows, columns, factors, diagonal).double()
    size = columns + columns % 2 + 2 * draw(st.integers(0, 2))
    layer = Circulant(rows, columns, factors, diagonal, size).double()
    if layer.positions is not None:
        layer.positions.copy_(torch.randperm(size)[:columns].sort().values)
    return layer


@given(layers(), st.integers(0, 3))
@settings(max_examples=120, deadline=None)
def test_it_is_the_matrix_of_its_definition(layer: Circulant, clips: int) -> None:
    torch.nn.init.normal_(layer.w)
    matrix = by_hand(layer)
    x = torch.randn(clips, 2, layer.columns, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ matrix.T)
    torch.testing.assert_close(layer.dense(), matrix)
    assert layer.parameter_count() == sum(weight.numel() for weight in layer.parameters())


@pytest.mark.parametrize(("rows", "columns", "factors"), [(3, 6, 1), (11, 4, 1), (3, 5, 3), (7, 4, 2)])
@pytest.mark.parametrize("diagonal", ["learned", "fixed"])
def test_gradients_are_those_of_the_numbers(rows: int, columns: int, factors: int, diagonal: Diagonal) -> None:
    torch.manual_seed(0)
    layer = Circulant(rows, columns, factors, diagonal).double()
    names = [name for name, _ in layer.named_parameters()]
    assert names == [
        name
        for name in ("w", "d", "inner")
        if name == "w" or (diagonal == "learned" and (factors > 1 or name == "d"))
    ]
    x = torch.randn(2, columns, dtype=torch.float64, requires_grad=True)

    def output(x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(layer, given, (x,)), torch.func.functional_call(
            Rebuilt(layer), {f"layer.{name}": weight for name, weight in given.items()}
        )

    assert torch.autograd.gradcheck(output, (x, *layer.parameters()))


class Rebuilt(torch.nn.Module):
    """Calls `dense` where a module's forward is called."""

    def __init__(self, layer: Circulant) -> None:
        super().__init__()
        self.layer = layer

    def forward(self) -> Tensor:
        return self.layer.dense()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_that_of_the_input_alone(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Circulant(24, 64, 2)
    x = torch.randn(5, 64).to(dtype)
    expected = x.float() @ layer.dense().T
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found, full = layer(x), layer(x.float())
        assert found.dtype == dtype
        assert full.dtype == torch.float32
        torch.testing.assert_close(full, expected)
        torch.testing.assert_close(found, expected.to(dtype))
    whole = Circulant(24, 64, 2).to(dtype)
    assert whole(x).dtype == whole.dense().dtype == dtype


def test_published_counts_of_the_layer() -> None:
    """Araujo et al., 2018; the FC layer reads 8,192 video and 4,096 audio clusters, 512 rows each."""
    fc = [(512, 8192), (512, 4096)]
    assert sum(rows * columns for rows, columns in fc) == 6_291_456
    for factors, published in ((1, 24_576), (3, 73_728), (6, 147_456)):
        assert sum(parameters(rows, columns, factors) for rows, columns in fc) == published
    # Dense less circulant, from the totals of the paper's tables.
    netvlad = [(512, 64 * 1024), (512, 32 * 128)]
    netfv = [(512, 2 * 64 * 1024), (512, 2 * 32 * 128)]
    for layers, saved in (
        (fc, 65_795_732 - 59_528_852),
        (netvlad, 86_333_460 - 50_821_140),
        (netfv, 122_054_676 - 51_030_036),
        ([(8192, 1024)], 45_359_764 - 36_987_540),
        ([(512, 8192)], 45_359_764 - 41_181_844),
    ):
        assert sum(rows * columns - parameters(rows, columns) for rows, columns in layers) == saved
    # The mixture of experts on 512 values: 5 gates and 4 experts a class, no gating of the context behind it.
    moe = [(3862 * 5, 512), (3862 * 4, 512)]
    gating = 3862**2 + 4 * 3862
    found = sum(rows * columns - parameters(rows, columns, diagonal="none") for rows, columns in moe)
    assert found + gating == 45_359_764 - 12_668_504


def test_weights_are_drawn_as_published() -> None:
    torch.manual_seed(0)
    layer = Circulant(400, 8192, 2)
    assert layer.d is not None
    assert layer.inner is not None
    for weight in (layer.w, layer.d, layer.inner):
        assert float(weight.detach().std()) == pytest.approx(400**-0.5, rel=0.03)
    fixed = Circulant(400, 8192, 2, "fixed")
    assert fixed.d is not None
    assert set(fixed.d.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(
    ("rows", "columns", "factors", "diagonal", "size"),
    [
        (0, 4, 1, "learned", None),
        (3, 0, 1, "learned", None),
        (3, 4, 0, "learned", None),
        (3, 4, 1, "learned", 5),
        (3, 4, 1, "learned", 2),
        (3, 4, 2, "none", None),
    ],
)
def test_a_matrix_that_cannot_be(
    rows: int, columns: int, factors: int, diagonal: Diagonal, size: int | None
) -> None:
    with pytest.raises(ValueError, match="circulant"):
        Circulant(rows, columns, factors, diagonal, size)


@st.composite
def prunings(draw: st.DrawFn) -> tuple[CirculantMatrix, list[int], list[int]]:
    """A matrix, and the rows and the columns to keep."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(sorted(CIRCULANTS)))
    rows, columns = draw(st.integers(1, 21)), draw(st.integers(1, 9))
    matrix = KINDS[kind](circulant(kind, rows, columns, draw(st.integers(1, 3)))).double()
    assert isinstance(matrix, CirculantMatrix)
    subsets = [sorted(draw(st.sets(st.integers(0, size - 1), min_size=1))) for size in (rows, columns)]
    return matrix, subsets[0], subsets[1] if matrix.drops_inputs else list(range(columns))


@given(prunings(), st.integers(0, 3))
@settings(max_examples=120, deadline=None)
def test_what_is_left_of_a_matrix_is_its_kept_rows_and_columns(
    case: tuple[CirculantMatrix, list[int], list[int]], clips: int
) -> None:
    matrix, rows, inputs = case
    scale = torch.randn(matrix.columns, dtype=torch.float64) if matrix.drops_inputs else torch.ones(matrix.columns)
    # Twice, as a model that is pruned again.
    slim = matrix.compacted(torch.tensor(rows), torch.tensor(inputs), scale)
    again = slim.matrix.compacted(slim.rows, torch.arange(len(inputs)), torch.ones(len(inputs)))
    expected = by_hand(matrix.layer)[rows][:, inputs] * scale[inputs]
    x = torch.randn(clips, 2, len(inputs), dtype=torch.float64)
    for found in (slim, again):
        torch.testing.assert_close(found.matrix.dense()[found.rows], expected)
        torch.testing.assert_close(found.matrix(x)[..., found.rows], x @ expected.T)
    size, factors = matrix.layer.size, matrix.layer.factors
    blocks = len({row // size for row in rows})
    diagonals = len(inputs) + (factors - 1) * size if matrix.drops_inputs else 0
    assert slim.matrix.parameter_count() == again.matrix.parameter_count() == blocks * (factors * size + diagonals)
    assert slim.matrix.parameter_count() == sum(weight.numel() for weight in slim.matrix.parameters())


@pytest.mark.parametrize("kind", sorted(CIRCULANTS))
@pytest.mark.parametrize(("rows", "columns", "factors"), [(16, 512, 1), (300, 64, 1), (16, 512, 3), (40, 101, 2)])
def test_entries_are_drawn_by_fan_in(kind: str, rows: int, columns: int, factors: int) -> None:
    torch.manual_seed(0)
    squares = [
        KINDS[kind](circulant(kind, rows, columns, factors)).dense().detach().square().mean() for _ in range(40)
    ]
    assert float(torch.stack(squares).mean()) == pytest.approx(1 / columns, rel=0.15)


@pytest.mark.parametrize(("rows", "count"), [(4, 500), (64, 500), (64, 1), (1024, 8)])
def test_both_ways_to_a_product_agree(rows: int, count: int) -> None:
    """Few rows go by the matrix, many by transforms; the caller sees no difference."""
    torch.manual_seed(0)
    matrix = KINDS["circulant"](circulant("circulant", rows, 64, 2))
    x = torch.randn(count, 64)
    torch.testing.assert_close(matrix(x), x @ matrix.dense().T, atol=1e-5, rtol=1e-5)


def test_descriptions_that_are_no_circulant_matrix() -> None:
    for factor in (Factor("circulant", (2, 2), (4,), (4,)), Factor("circulant", (4,), (4,), (4, 6))):
        with pytest.raises(ValueError, match="circulant"):
            KINDS["circulant"](factor)
    with pytest.raises(ValueError, match="circulant"):
        KINDS["circulant"](Factor("circulant", (4,), (4,)))
    fixed = KINDS["circulant-signs"](circulant("circulant-signs", 4, 4, 1))
    with pytest.raises(ValueError, match="reads all of its inputs"):
        fixed.compacted(torch.arange(4), torch.arange(3), torch.ones(4))


def test_the_benchmark_tells_ratios_of_the_times_beside_them(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    result = CliRunner().invoke(bench_circulant.main, ["--quick", "--batches", "1,3", "--out", str(out)])
    assert result.exit_code == 0, result.output
    told = json.loads(out.read_text())
    assert told["threads"] == 1
    for by_batch in told["sizes"].values():
        for found in by_batch.values():
            for part in ("forward", "step"):
                ms = found[part]["ms"]
                assert found[part]["times_faster"] == pytest.approx(ms["dense"] / ms["circulant"])
    assert bench_circulant.crossing({8: 2.0, 16: 0.5, 32: 1.5, 64: 3.0}) == 32
    assert bench_circulant.crossing({8: 2.0, 16: 0.5}) is None
    result = CliRunner().invoke(bench_circulant.main, ["--batches", "3,x"])
    assert result.exit_code == 2
    assert "whole numbers" in result.output
