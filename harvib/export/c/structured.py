"""Structured matrices in C: as what they are made of, dense, or by their entries, whatever takes fewest bytes.

A function a class of harvib/factorised makes the first of these forms, which computes no matrix: a tensor network
contracts each input with its cores, a circulant matrix turns its weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from harvib.export.c.loose import Loose, Reader, Signs
from harvib.export.c.matrices import Dense, Form, Sparse, fewest
from harvib.export.c.program import Program
from harvib.export.numbers import array
from harvib.factorised import Matrix
from harvib.factorised.circulant_matrix import CirculantMatrix
from harvib.factorised.network import TensorNetwork


def smallest(matrix: Matrix, int8: bool, rows: np.ndarray, columns: np.ndarray | None = None) -> Form:
    """The form of fewest bytes of a matrix's `rows`; of its columns those, where not all are there."""
    dense = array(matrix.dense())[rows]
    whole = dense if columns is None else dense[:, columns]
    forms: list[Form] = [Dense(whole, int8), Sparse(whole, int8)]
    own = next((OWN[kind] for kind in type(matrix).__mro__ if kind in OWN), None)
    if own is not None:
        form = own(matrix, int8, rows)
        forms.append(form if columns is None else _Placed(form, matrix.columns, columns))
    return min(forms, key=lambda form: form.bytes)


class _Placed(Form):
    """A form that is given some of its columns; the others read zero."""

    def __init__(self, form: Form, width: int, columns: np.ndarray) -> None:
        self.rows, self._form, self._width, self._columns = form.rows, form, width, fewest(columns)
        self.bytes = form.bytes + self._columns.nbytes

    def times(self, program: Program, x: str) -> str:
        # What nothing is ever written to stays at the zero that it starts with.
        wide, places = program.member("wide", self._width), program.constant("c", self._columns)
        program.loop(len(self._columns), f"{wide}[{places}[j]] = {x}[j];")
        return self._form.times(program, wide)


class _Network(Form):
    """The cores, contracted with one input in the order that is cheapest for one."""

    def __init__(self, matrix: Matrix, int8: bool, rows: np.ndarray) -> None:
        assert isinstance(matrix, TensorNetwork)
        self.rows, self._matrix, self._picks = len(rows), matrix, fewest(rows)
        self._cores = [Loose(array(core), int8) for core in matrix.cores]
        self._picked = rows.tolist() != list(range(matrix.rows))
        self.bytes = sum(core.bytes for core in self._cores) + (self._picks.nbytes if self._picked else 0)

    def times(self, program: Program, x: str) -> str:
        matrix = self._matrix
        equation, path = matrix.contractions()
        sides, result = equation.split("->")
        labels = sides.split(",")
        shapes = [matrix.factor.columns, *(core.shape for core in matrix.cores)]
        sizes = {
            label: size
            for names, shape in zip(labels, shapes, strict=True)
            for label, size in zip(names, shape, strict=True)
        }
        readers = [_array("x"), *(core.put(program) for core in self._cores)]
        operands = list(zip(readers, labels, strict=True))
        lines, used = [], 0
        for places in path:
            taken = [operands.pop(place) for place in sorted(places, reverse=True)]
            needed = set("".join(names for _, names in operands)) | set(result)
            together = list(dict.fromkeys("".join(names for _, names in taken)))
            kept = "".join(label for label in together if label in needed) if operands else result
            target = f"(work + {used})"
            if operands or self._picked:
                used += math.prod(sizes[label] for label in kept)
            else:
                target = "out"
            lines.append(_contraction(target, kept, taken, sizes))
            operands.append((_array(target), kept))
        body = "".join(lines)
        if self._picked:
            picks = program.constant("c", self._picks)
            picking = f"    for (j = 0; j < {self.rows}; j++)\n        out[j] = {target}[{picks}[j]];\n"
            body = f"    size_t j;\n{body}{picking}"
        parameters = "float *restrict out, const float *restrict x" + (", float *restrict work" if used else "")
        call = program.function("times", parameters, body)
        out = program.scratch(self.rows)
        work = f", {program.scratch(used)}" if used else ""
        program.step.append(f"    {call}({out}, {x}{work});\n")
        return out


def _array(name: str) -> Reader:
    return lambda place: f"{name}[{place}]"


def _contraction(target: str, kept: str, taken: list[tuple[Reader, str]], sizes: dict[str, int]) -> str:
    """Loops over all labels: those that stay outside, those that are summed over inside."""
    summed = [label for label in dict.fromkeys("".join(names for _, names in taken)) if label not in kept]
    variables = {label: f"i{number}" for number, label in enumerate([*kept, *summed])}

    def entry(read: Reader, labels: str) -> str:
        index = ""
        for label in labels:
            index = f"({index}) * {sizes[label]} + {variables[label]}" if index else variables[label]
        return read(index or "0")

    def loops(labels: list[str], depth: int) -> list[str]:
        return [
            f"{'    ' * (depth + number)}for ({variables[label]} = 0; {variables[label]} < {sizes[label]}; "
            f"{variables[label]}++)" + (" {" if number == len(labels) - 1 and depth == 2 else "")
            for number, label in enumerate(labels)
        ]

    product = " * ".join(entry(*operand) for operand in taken)
    outer = loops(list(kept), 2)
    if outer and not outer[-1].endswith("{"):
        outer[-1] += " {"
    deep = 2 + len(kept)
    lines = ["    {", f"        size_t {', '.join(variables.values())};", *outer]
    if not kept:
        lines.append("        {")
        deep += 1
    lines.append(f"{'    ' * deep}float sum = 0.0f;")
    inner = [line.removesuffix(" {") for line in loops(summed, deep)]
    lines += [*inner, f"{'    ' * (deep + len(summed))}sum += {product};"]
    lines += [f"{'    ' * deep}{entry(_array(target), kept)} = sum;", f"{'    ' * (deep - 1)}}}", "    }"]
    return "".join(f"{line}\n" for line in lines)


class _Circulant(Form):
    """The weights and diagonals of each block; the last factor gives only the rows that are asked for."""

    def __init__(self, matrix: Matrix, int8: bool, rows: np.ndarray) -> None:
        assert isinstance(matrix, CirculantMatrix)
        layer = matrix.layer
        self.rows, self._layer = len(rows), layer
        self._blocks, self._places = fewest(rows // layer.size), fewest(rows % layer.size)
        self._weights = Loose(array(layer.w), int8)
        diagonals = [layer.d, *([] if layer.inner is None else layer.inner)]
        made = Signs if layer.diagonal == "fixed" else partial(Loose, int8=int8)
        self._diagonals = [None if values is None else made(array(values)) for values in diagonals]
        self._positions = None if layer.positions is None else fewest(layer.positions.cpu().numpy())
        parts = [self._weights, *self._diagonals, self._positions, self._blocks, self._places]
        self.bytes = sum(_bytes(part) for part in parts)

    def times(self, program: Program, x: str) -> str:
        layer = self._layer
        blocks, size, width = layer.blocks, layer.size, layer.columns
        place = "k" if self._positions is None else f"(size_t){program.constant('c', self._positions)}[k]"
        lines, used, source, stride = ["    size_t i, j, k;\n"], 0, "x", 0
        weight = self._weights.put(program)
        for number, diagonal in enumerate(self._diagonals):
            if number:
                width, place = size, "k"
            if diagonal is not None:
                by = diagonal.put(program)(f"i * {width} + k")
                target = f"(work + {used})"
                used += blocks * width
                lines.append(
                    f"    for (i = 0; i < {blocks}; i++)\n        for (k = 0; k < {width}; k++)\n"
                    f"            {target}[i * {width} + k] = {by} * {source}[i * {stride} + k];\n"
                )
                source, stride = target, width
            turned = (
                f"            for (k = 0; k < {width}; k++) {{\n"
                f"                const size_t at = {place};\n"
                f"                const size_t from = ({blocks * number} + i) * {size} + "
                f"(at < m ? at + {size} - m : at - m);\n"
                f"                sum += {weight('from')} * {source}[i * {stride} + k];\n            }}\n"
            )
            if number < layer.factors - 1:
                target = f"(work + {used})"
                used += blocks * size
                lines.append(
                    f"    for (i = 0; i < {blocks}; i++) {{\n        size_t m;\n"
                    f"        for (m = 0; m < {size}; m++) {{\n            float sum = 0.0f;\n{turned}"
                    f"            {target}[i * {size} + m] = sum;\n        }}\n    }}\n"
                )
                source, stride = target, size
            else:
                block, row = program.constant("c", self._blocks), program.constant("c", self._places)
                lines.append(
                    f"    for (j = 0; j < {self.rows}; j++) {{\n        const size_t m = {row}[j];\n"
                    f"        float sum = 0.0f;\n        i = {block}[j];\n"
                    f"        {{\n{turned}        }}\n        out[j] = sum;\n    }}\n"
                )
        parameters = "float *restrict out, const float *restrict x" + (", float *restrict work" if used else "")
        call, out = program.function("times", parameters, "".join(lines)), program.scratch(self.rows)
        work = f", {program.scratch(used)}" if used else ""
        program.step.append(f"    {call}({out}, {x}{work});\n")
        return out


def _bytes(part: Loose | np.ndarray | None) -> int:
    return 0 if part is None else part.nbytes if isinstance(part, np.ndarray) else part.bytes


OWN: dict[type[Matrix], Callable[[Matrix, bool, np.ndarray], Form]] = {
    TensorNetwork: _Network,
    CirculantMatrix: _Circulant,
}
