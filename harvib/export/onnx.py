"""A model as an ONNX file: batch and time of any size, standard operators, the class names in its metadata.

Inputs `features` (B, T, D) float32 and `lengths` (B,) int64, how many steps of each clip count; output `logits`
(B, C). In between time comes first, as ONNX's recurrent operators have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from harvib.cells.stack import Layer
from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.export.graph import IR, OPSET, Graph
from harvib.export.made import Exported, metadata_of
from harvib.export.matrices import Float32, Scheme, Seen
from harvib.export.numbers import array, array_of_indices
from harvib.export.onnx_cells import emit_cell
from harvib.export.onnx_pooling import Make, emit_pooling
from harvib.export.store import Store
from harvib.export.torch import compact_form
from harvib.models import SequenceClassifier
from harvib.onnxfile import FORMAT, VERSION
from harvib.pooling.model import PoolingClassifier
from harvib.quantize.schemes import Int8Weights
from harvib.unitrows import SMALLEST
from harvib.weights import ModelCard

SCHEMES: dict[str, Scheme] = {"none": Float32(), "int8": Int8Weights()}


def onnx_file(model: Classifier, card: ModelCard, out: Path, quantize: str) -> Exported:
    """A model as ONNX; a plain or masked one is compacted first."""
    small = compact_form(model)
    proto = to_onnx(small, card, SCHEMES[quantize])
    kinds = {node.op_type for node in proto.graph.node} & {"LSTM", "GRU", "RNN", "Scan"}
    told = f", {', '.join(sorted(kinds))}" if kinds else ""
    eight = ", weights in 8 bits" if quantize == "int8" else ""
    inputs = f"inputs {small.spec.inputs:,} of {small.spec.features:,}"
    line = f"{out}: ONNX, opset {OPSET}, {inputs}{told}{eight}"
    return Exported({out: proto.SerializeToString(deterministic=True)}, line)


def to_onnx(
    small: Classifier,
    card: ModelCard,
    scheme: Scheme,
    seen: Mapping[str, Seen] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """A compact model in ONNX, its matrices stored by a scheme; `seen` is what calibration found.

    Raises InputError where a part of the model has not been written in ONNX.
    """
    graph = Graph()

    def make(prefix: str) -> Store:
        return Store(graph, scheme, prefix, seen)

    x = _selected(graph, small)
    if isinstance(small, SequenceClassifier):
        logits = _layers(graph, small, graph.op("Transpose", x, perm=[1, 0, 2]), make)
    elif isinstance(small, PoolingClassifier):
        logits = emit_pooling(graph, small, x, make)
    else:
        raise InputError(f"a {small.spec.FAMILY} model cannot be written as ONNX yet")
    # The output's name is a promise.
    graph.nodes.append(helper.make_node("Identity", [logits], ["logits"]))
    return _model(graph, small, card, metadata or {})


def _layers(graph: Graph, small: SequenceClassifier, x: str, make: Make) -> str:
    """Layers of cells, the readout and the head, time first."""
    layers = [layer for layer in small.recurrent.layers if isinstance(layer, Layer)]
    first = ""
    for number, layer in enumerate(layers):
        if layer.reads is not None and layer.reads.tolist() != list(range(sum(layers[number - 1].widths))):
            x = _picked(graph, x, array_of_indices(layer.reads.cpu().numpy()))
        outputs = []
        for direction, cell in layer.directions():
            store = make(f"{number}{'fb'[direction]}.")
            states = emit_cell(cell, _reversed(graph, x) if direction else x, store)
            outputs.append(_reversed(graph, states) if direction else states)
        x = outputs[0] if len(outputs) == 1 else graph.op("Concat", *outputs, axis=2)
        first = first or x
    if small.recurrent.projected:
        x = graph.op("Concat", first, x, axis=2)
    read = _READOUTS[small.spec.readout](graph, x, small.recurrent.backward_size, small.recurrent.hidden_size)
    head = make("head.")
    product = head.matrix("ih", array(small.head.weight)).times(graph, read)
    return graph.op("Add", product, head.bias(array(small.head.bias)))


def _selected(graph: Graph, small: Classifier) -> str:
    """The inputs that the model reads, (B, T, K); see `harvib.unitrows`."""
    x = "features"
    if small.spec.normalize:
        length = graph.op("ReduceL2", x, graph.constant(np.array([2])), keepdims=1)
        x = graph.op("Div", x, graph.op("Max", length, graph.constant(np.array(SMALLEST, np.float32))))
    if small.spec.inputs < small.spec.features:
        x = _picked(graph, x, array_of_indices(small.selection.cpu().numpy()))
    return x


def _picked(graph: Graph, x: str, indices: np.ndarray) -> str:
    chosen = graph.op("Cast", graph.constant(indices), to=TensorProto.INT64)
    return graph.op("Gather", x, chosen, axis=2)


def _reversed(graph: Graph, x: str) -> str:
    """Each clip's own steps in reverse order."""
    return graph.op("ReverseSequence", x, "lengths", time_axis=0, batch_axis=1)


def _steps(graph: Graph, x: str) -> str:
    """0, 1, ... for each step of (T, B, D), (T, 1)."""
    zero, one = graph.constant(np.array(0)), graph.constant(np.array(1))
    count = graph.op("Squeeze", graph.op("Shape", x, start=0, end=1))
    return graph.op("Unsqueeze", graph.op("Range", zero, count, one), graph.constant(np.array([1])))


def _where(graph: Graph, x: str, chosen: str) -> str:
    """(T, B, D) summed over the chosen (T, B) steps; what stands at the others does not matter, be it infinite."""
    chosen = graph.op("Unsqueeze", chosen, graph.constant(np.array([2])))
    kept = graph.op("Where", chosen, x, graph.constant(np.array(0, np.float32)))
    return graph.op("ReduceSum", kept, graph.constant(np.array([0])), keepdims=0)


def _mean(graph: Graph, x: str, backward: int, width: int) -> str:
    total = _where(graph, x, graph.op("Less", _steps(graph, x), "lengths"))
    counts = graph.op("Cast", "lengths", to=TensorProto.FLOAT)
    return graph.op("Div", total, graph.op("Unsqueeze", counts, graph.constant(np.array([1]))))


def _last(graph: Graph, x: str, backward: int, width: int) -> str:
    end = graph.op("Sub", "lengths", graph.constant(np.array(1)))
    ends = _where(graph, x, graph.op("Equal", _steps(graph, x), end))
    if not backward:
        return ends
    parts = graph.constant(np.array([width - backward, backward]))
    start = graph.op("Gather", x, graph.constant(np.array(0)), axis=0)
    if width == backward:
        return start
    forward, _ = graph.ops("Split", 2, ends, parts, axis=1)
    _, back = graph.ops("Split", 2, start, parts, axis=1)
    return graph.op("Concat", forward, back, axis=1)


_READOUTS = {"mean": _mean, "last": _last}


def _model(graph: Graph, small: Classifier, card: ModelCard, metadata: Mapping[str, str]) -> onnx.ModelProto:
    spec, info = small.spec, helper.make_tensor_value_info
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "harvib",
            [
                info("features", TensorProto.FLOAT, ["B", "T", spec.features]),
                info("lengths", TensorProto.INT64, ["B"]),
            ],
            [info("logits", TensorProto.FLOAT, ["B", spec.classes])],
            list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="harvib",
    )
    told = metadata_of(small, card, FORMAT, VERSION)
    helper.set_model_props(proto, told | dict(metadata))
    # Whoever reads a file of ours shall not be the first to find that it is none.
    onnx.checker.check_model(proto, full_check=True)
    return proto
