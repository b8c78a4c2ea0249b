"""Inputs times the factors of their clip: value and gradient against the formula under autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harvib.kernels import scale
from harvib.kernels.scale import scaled


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 5), st.integers(1, 6)),
    st.booleans(), st.booleans(), st.integers(1, 80), st.integers(0, 2**32),
)  # fmt: skip
def test_value_and_gradients_are_those_of_the_formula(
    shape: tuple[int, int, int], of_x: bool, shared: bool, values: int, seed: int
) -> None:
    batch, _, width = shape
    torch.manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=of_x)
    factor = torch.randn(1 if shared else batch, width, dtype=torch.float64, requires_grad=True)
    mean, above = torch.randn(width, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    leaves = [x, factor] if of_x else [factor]
    wanted = (x - mean) * factor[:, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "_VALUES", values)
        found = scaled(x, mean, factor)
        torch.testing.assert_close(found, wanted)
        gradients = torch.autograd.grad((found * above).sum(), leaves)
    for ours, theirs in zip(gradients, torch.autograd.grad((wanted * above).sum(), leaves), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_second_derivative_is_refused() -> None:
    factor = torch.ones(2, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(scaled(torch.ones(2, 3, 4), torch.zeros(4), factor).sum(), factor, create_graph=True)
