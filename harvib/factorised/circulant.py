"""The circulant layer: a matrix of circulant blocks, each of N weights and a diagonal of N in place of N * N.

One block maps N values x to N values

    y = irfft(rfft(x * d) * conj(rfft(w)))        that is (x * d) C with C[n, m] = w[(n - m) mod N]

N even, w and d learned, no bias: 2N parameters (Araujo et al., "Training compact deep learning models for video
classification using circulant matrices", 2018). They are drawn from N(0, 1/sqrt(rows)), where no other `deviation`
is asked for. More rows than N: ceil(rows / N) blocks side by side, each with a w and a d of its own; fewer: the
first rows of a block. Several factors are such products one after another, each with its own w and d (2N a
factor), and a block of them is cut at the end.

Variants of that paper: diagonals of fixed random signs, which are no parameters (its weaker baseline), and none
at all, one w a block (its mixture of experts).

An odd number of columns gets one more, of zeros, so N is even; that column has no entry in d.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Diagonal = Literal["learned", "fixed", "none"]


class Circulant(nn.Module):
    """(..., columns) to (..., rows), linear: x times the transposed `dense()`.

    `w` (factors, blocks, N); `d` (blocks, columns), the diagonal of the first factor, and `inner`
    (factors - 1, blocks, N), those of the others: parameters, or buffers of +1 and -1 where the diagonal is fixed.
    `size` N is given where only some of N columns are left. With fewer columns than N column k stands at place
    `positions[k]` of the N, and what stands elsewhere is zero.
    """

    positions: Tensor | None
    d: Tensor | None
    inner: Tensor | None

    def __init__(
        self,
        rows: int,
        columns: int,
        factors: int = 1,
        diagonal: Diagonal = "learned",
        size: int | None = None,
        deviation: float | None = None,
    ) -> None:
        super().__init__()
        size = block_size(columns) if size is None else size
        if min(rows, columns, factors) < 1 or size % 2 or size < columns:
            raise ValueError(f"no circulant matrix {rows} x {columns}, {factors} factors, blocks of {size}")
        if diagonal == "none" and factors > 1:
            raise ValueError("circulant factors without diagonals between them are one factor")
        self.rows, self.columns, self.factors, self.diagonal, self.size = rows, columns, factors, diagonal, size
        self.blocks = block_count(rows, size)
        self._deviation = rows**-0.5 if deviation is None else deviation
        self.register_buffer("positions", torch.arange(columns) if columns < size else None)
        self.w = nn.Parameter(self._normal(factors, self.blocks, size))
        self._hold("d", self.blocks, columns)
        self._hold("inner", factors - 1, self.blocks, size)

    def forward(self, x: Tensor) -> Tensor:
        """In the dtype of x; computed in float32 where that is a shorter one, inside autocast too."""
        if not x.numel():
            # MKL refuses to transform nothing (torch 2.14 on AMD).
            return nn.functional.linear(x, self.dense().to(x.dtype))
        with torch.autocast(x.device.type, enabled=False):
            weights = self._spectra()
            values = x.to(_work(x.dtype))[..., None, :]
            if self.d is not None:
                values = values * self.d
            values = self._placed(values)
            for number, weight in enumerate(weights):
                if number and self.inner is not None:
                    values = values * self.inner[number - 1]
                spectrum = torch.fft.rfft(values) * weight.conj()
                values = torch.fft.irfft(spectrum, n=self.size)
            return values.flatten(-2)[..., : self.rows].to(x.dtype)

    def dense(self) -> Tensor:
        """The matrix itself, (rows, columns), differentiable."""
        with torch.autocast(self.w.device.type, enabled=False):
            # Row m of the transposed last circulant is w turned by m.
            found = _turned(self.w[-1].to(_work(self.w.dtype)), min(self.rows, self.size))
            spectra = self._spectra()
            for number in range(self.factors - 2, -1, -1):
                assert self.inner is not None
                # A block's rows times the transpose of a circulant: the correlation turns into a convolution.
                spectrum = torch.fft.rfft(found * self.inner[number, :, None]) * spectra[number][:, None]
                found = torch.fft.irfft(spectrum, n=self.size)
            if self.positions is not None:
                found = found[..., self.positions]
            if self.d is not None:
                found = found * self.d[:, None]
            return found.flatten(0, 1)[: self.rows].to(self.w.dtype)

    def parameter_count(self) -> int:
        """Of w and of the diagonals that are learned."""
        return parameters(self.rows, self.columns, self.factors, self.diagonal, self.size)

    def extra_repr(self) -> str:
        return f"{self.columns} -> {self.rows}, {self.blocks} blocks of {self.size}, {self.factors} factors"

    def _normal(self, *shape: int) -> Tensor:
        return self._deviation * torch.randn(*shape)

    def _hold(self, name: str, *shape: int) -> None:
        """A diagonal: None where there is none, or where the shape has no factor for it."""
        if self.diagonal == "learned" and shape[0]:
            self.register_parameter(name, nn.Parameter(self._normal(*shape)))
        elif self.diagonal == "fixed" and shape[0]:
            self.register_buffer(name, torch.randint(0, 2, shape) * 2.0 - 1)
        else:
            self.register_buffer(name, None)

    def _spectra(self) -> list[Tensor]:
        """Each factor's rfft of w, (blocks, N // 2 + 1)."""
        return list(torch.fft.rfft(self.w.to(_work(self.w.dtype))))

    def _placed(self, values: Tensor) -> Tensor:
        if self.positions is None:
            return values
        places = values.new_zeros(*values.shape[:-1], self.size)
        return places.index_copy(-1, self.positions, values)


def block_size(columns: int) -> int:
    """N: the columns, and one more where they are odd."""
    return columns + columns % 2


def block_count(rows: int, size: int) -> int:
    """How many blocks of `size` give so many rows."""
    return -(-rows // size)


def parameters(
    rows: int, columns: int, factors: int = 1, diagonal: Diagonal = "learned", size: int | None = None
) -> int:
    """Parameters of a circulant matrix; `size` N where only some of N columns are left."""
    size = block_size(columns) if size is None else size
    diagonals = columns + (factors - 1) * size if diagonal == "learned" else 0
    return block_count(rows, size) * (factors * size + diagonals)


def _work(dtype: torch.dtype) -> torch.dtype:
    """FFTs of half precision are missing or too coarse."""
    return torch.promote_types(dtype, torch.float32)


def _turned(w: Tensor, rows: int) -> Tensor:
    """(blocks, N) to (blocks, rows, N) with w[(n - m) mod N] at row m and column n.

    Rows of 2N - 1 out of the periodic w begin one place earlier from row to row. Views and one copy: a gather
    gives the same, and takes thrice the time with its gradient.
    """
    blocks, size = w.shape
    width = 2 * size - 1
    periodic = w[:, None].expand(blocks, 2 * rows, size).reshape(blocks, -1)
    return periodic[:, : rows * width].view(blocks, rows, width)[..., :size]
