"""An ONNX graph under construction: nodes one after the other, names made up, constants beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 21, 10
"""The first with 4-bit integers and a step a group of columns; onnxruntime reads it since 1.18."""

Step = Callable[["Graph", list[str], str], tuple[list[str], str]]
"""One step of a scan: the graph of its body, states and input by name, to the new states and the output."""


class Graph:
    """Operators of ONNX's default domain only. A body of a scan shares the constants and names of its `parent`."""

    def __init__(self, parent: Graph | None = None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._root: Graph = parent._root if parent is not None else self
        self.constants: dict[str, onnx.TensorProto] = {}
        self._count = 0

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append an operator; the name of its first output. Inputs left out are empty names."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Append an operator with several outputs; their names."""
        names = [self._name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def constant(self, value: np.ndarray, name: str = "") -> str:
        """Store an array; the same numbers without a name of their own are stored once."""
        root = self._root
        found = name or f"{value.dtype.str[1:]}{list(value.shape)}{value.ravel().tolist()}"
        if not name and value.size > 4:
            found = self._name()
        if found not in root.constants:
            root.constants[found] = numpy_helper.from_array(np.array(value, order="C"), found)
        return found

    def packed(self, data: bytes, shape: Sequence[int], name: str) -> str:
        """Store 4-bit integers that are packed already."""
        tensor = helper.make_tensor(name, TensorProto.INT4, shape, data, raw=True)
        self._root.constants[name] = tensor
        return name

    def scan(self, xs: str, widths: Sequence[int], step: Step) -> str:
        """Run `step` over the first axis of xs (T, B, G) from zero states (B, width) each; the outputs (T, B, H).

        `widths` are those of the states; the output is as wide as the first, and G does not matter here.
        """
        body = Graph(self)
        states = [body._name() for _ in widths]
        here = body._name()
        after, out = step(body, states, here)
        # What goes out must be a node's own output, and no output may be named twice.
        results = [body.op("Identity", name) for name in (*after, out)]
        wide = [*widths, widths[0]]
        proto = helper.make_graph(
            body.nodes,
            self._name(),
            [_floats(name, width) for name, width in zip(states, widths, strict=True)] + [_floats(here, None)],
            [_floats(name, width) for name, width in zip(results, wide, strict=True)],
        )
        batch = self.op("Shape", xs, start=1, end=2)
        zeros = []
        for width in widths:
            shape = self.op("Concat", batch, self.constant(np.array([width])), axis=0)
            zeros.append(self.op("ConstantOfShape", shape))
        return self.ops("Scan", len(wide), *zeros, xs, body=proto, num_scan_inputs=1)[-1]

    def branch(
        self, condition: str, then: Callable[[Graph], str], otherwise: Callable[[Graph], str], kind: int
    ) -> str:
        """What `then` makes where `condition` (1,) holds, else what `otherwise` makes; of element type `kind`."""
        bodies = {}
        for attribute, make in (("then_branch", then), ("else_branch", otherwise)):
            body = Graph(self)
            result = body.op("Identity", make(body))
            out = helper.make_tensor_value_info(result, kind, None)
            bodies[attribute] = helper.make_graph(body.nodes, self._name(), [], [out])
        return self.op("If", condition, **bodies)

    def splice(self, inner: onnx.GraphProto, prefix: str, feeds: Mapping[str, str]) -> dict[str, str]:
        """Take in another graph whose inputs are `feeds` by name; the names of its outputs, by theirs."""
        found = onnx.compose.add_prefix_graph(inner, f"{prefix}/")
        for tensor in found.initializer:
            self._root.constants[tensor.name] = tensor
        for name, given in feeds.items():
            self.nodes.append(helper.make_node("Identity", [given], [f"{prefix}/{name}"]))
        self.nodes.extend(found.node)
        return {output.name: f"{prefix}/{output.name}" for output in inner.output}

    def _name(self) -> str:
        self._root._count += 1
        return f"{self._root._count:x}"


def _floats(name: str, width: int | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", width])
