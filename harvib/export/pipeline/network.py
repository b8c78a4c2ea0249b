"""A torch module on pictures as an ONNX graph, by torch's own exporter: any number of them, standard operators.

The exporter folds batch normalisation into the convolutions.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from torch import nn

from harvib.errors import InputError
from harvib.export.graph import OPSET


def network_graph(module: nn.Module, height: int, width: int, name: str) -> onnx.GraphProto:
    """`images` (N, 3, height, width) uint8 to `features` (N, K) float32.

    Raises InputError, which names the network, where the exporter has no form for it.
    """
    # Two: of one picture the exporter would make a constant.
    example = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(0)).byte()
    try:
        with _quiet(), _out_of_place(module):
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{name}: torch cannot write this network as ONNX: {reason}") from error
    assert program is not None
    proto = program.model_proto
    foreign = {node.domain for node in proto.graph.node} - {"", "ai.onnx"}
    opsets = {item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")}
    if foreign or proto.functions or opsets != {OPSET}:
        raise InputError(
            f"{name}: torch writes this network with operators beyond ONNX's opset {OPSET}; update it"
        )
    # The exporter notes by which lines of which files it came to each node: paths of this machine.
    for node in proto.graph.node:
        del node.metadata_props[:]
    return proto.graph


@contextlib.contextmanager
def _out_of_place(module: nn.Module) -> Iterator[None]:
    """Activations make new maps: those in place give the same graph, and take the exporter twice as long."""
    changed: list[Any] = [part for part in module.modules() if getattr(part, "inplace", False) is True]
    for part in changed:
        part.inplace = False
    try:
        yield
    finally:
        for part in changed:
            part.inplace = True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress, logs, and warns of its own workings; errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
