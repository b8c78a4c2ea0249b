"""A model as one C99 file and its header: the steps of a clip one by one, all that it holds as constants.

Two states never share anything, and a state is a struct of the caller's, so there is nothing to free or to lock.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from harvib.cells.stack import Layer
from harvib.errors import InputError
from harvib.export.c.cells import emit_cell
from harvib.export.c.matrices import fewest, halved
from harvib.export.c.program import HELPERS, Member, Program
from harvib.export.c.text import characters, number, string
from harvib.export.numbers import array
from harvib.models import SequenceClassifier
from harvib.quantize.numbers import by_rows
from harvib.unitrows import SMALLEST
from harvib.weights import ModelCard

FORMAT, VERSION = "harvib-c", 1


@dataclass(frozen=True)
class CFiles:
    """The texts of the two files; `constants` and `state` are bytes, the latter where a pointer has eight."""

    source: str
    header: str
    constants: int
    state: int


def to_c(small: SequenceClassifier, card: ModelCard, name: str, include: str, quantize: str = "none") -> CFiles:
    """A compact model in C with names that begin with `name`; the source includes its header as `include`.

    With `quantize` int8 matrices are stored in 8 bits a weight; all arithmetic is that of floats.
    Raises InputError where a cell of the model has not been written in C, and for cells that run backwards.
    """
    layers = [layer for layer in small.recurrent.layers if isinstance(layer, Layer)]
    if any(direction for layer in layers for direction, _ in layer.directions()):
        raise InputError(
            "--format c goes through a clip frame by frame, and this model also reads it backwards "
            "(--bidirectional): say --format onnx"
        )
    program = Program(name, quantize == "int8")
    x = _selected(program, small)
    shown: list[tuple[str, int]] = []
    for place, layer in enumerate(layers):
        if layer.reads is not None and layer.reads.tolist() != list(range(sum(layers[place - 1].widths))):
            picked = program.scratch(len(layer.reads))
            reads = program.constant("c", fewest(layer.reads.cpu().numpy()))
            program.loop(len(layer.reads), f"{picked}[j] = {x}[{reads}[j]];")
            x = picked
        ((_, cell),) = layer.directions()
        x = emit_cell(cell, x, program)
        shown.append((x, cell.hidden_size))
        program.layer()
    read = [shown[0], shown[-1]] if small.recurrent.projected else shown[-1:]
    head = _head(program, small, read)
    step = _step(program)
    described = _Metadata(card, small, name)
    return CFiles(
        source=_source(program, described, include, step, head),
        header=_header(program, described),
        constants=program.bytes,
        state=_state_size(program),
    )


def _selected(program: Program, small: SequenceClassifier) -> str:
    """Where the inputs are that the model reads; see `harvib.unitrows`."""
    spec, length = small.spec, ""
    if spec.normalize:
        root = program.helper("length")
        program.step.append(
            f"    double squares = 0.0;\n    float length;\n    for (j = 0; j < {spec.features}; j++)\n"
            f"        squares += (double)features[j] * (double)features[j];\n"
            f"    length = {root}(squares);\n"
            f"    if (length < {number(SMALLEST)})\n        length = {number(SMALLEST)};\n"
        )
        length = " / length"
    chosen = small.selection.cpu().numpy() if spec.inputs < spec.features else np.arange(spec.features)
    # Without a cell the inputs are the states, and those stay until the next step.
    if spec.inputs == spec.features and not spec.normalize and spec.cell != "mean":
        return "features"
    x, places = program.member("x", spec.inputs), program.constant("c", fewest(chosen))
    program.loop(spec.inputs, f"{x}[j] = features[{places}[j]]{length};")
    return x


def _head(program: Program, small: SequenceClassifier, read: list[tuple[str, int]]) -> str:
    """The body of the function that gives logits; what it reads is summed over time where the mean is read."""
    found = by_rows(array(small.head.weight)) if program.int8 else None
    stored = array(small.head.weight) if found is None else found.codes
    weights = program.constant("w", np.ascontiguousarray(stored.T))
    scale = halved(program, found.halvings if found is not None and found.halves else None)
    bias, classes, at = program.constant("b", array(small.head.bias)), small.spec.classes, 0
    first, cast = (f"{bias}[j] + ", "") if found is None else ("", "(float)")
    lines = ["    size_t j, k;\n"]
    if small.spec.readout == "mean":
        lines.append("    const double by = s->steps > 0.0 ? 1.0 / s->steps : 0.0;\n")

    def adds(value: str, k: str, operator: str, start: str) -> str:
        return (
            f"        const float value = {value.replace('[k]', f'[{k}]')}{scale(f'{k} + {at}' if at else k)};\n"
            f"        for (j = 0; j < {classes}; j++)\n"
            f"            logits[j] {operator} {start}{cast}{weights}[{k} + {at}][j] * value;\n    }}\n"
        )

    for name, width in read:
        value = f"{name}[k]"
        if small.spec.readout == "mean":
            total = program.member("m", width, "double")
            program.loop(width, f"{total}[j] += (double){name}[j];")
            value = f"(float)({total}[k] * by)"
        if not at:
            # The first sum begins with the bias: a copy of it would be a call of memcpy.
            lines.append("    {\n" + adds(value, "0", "=", first))
        lines.append(f"    for (k = {0 if at else 1}; k < {width}; k++) {{\n" + adds(value, "k", "+=", ""))
        at += width
    if found is not None:
        steps = program.constant("s", found.steps[:, 0])
        lines.append(
            f"    for (j = 0; j < {classes}; j++)\n        logits[j] = {bias}[j] + {steps}[j] * logits[j];\n"
        )
    return "".join(lines)


def _step(program: Program) -> str:
    lines = "".join(program.step) + "    s->steps += 1.0;\n"
    if program.taps:
        lines += f"    s->at = (s->at + 1) % {program.taps};\n"
    return ("    size_t j;\n" if "j++" in lines else "") + lines


class _Metadata:
    """What the header tells of a model."""

    def __init__(self, card: ModelCard, small: SequenceClassifier, name: str) -> None:
        self.card, self.spec, self.name, self.upper = card, small.spec, name, name.upper()
        self.texts = {
            "format": f"{FORMAT} {VERSION}",
            "fingerprint": card.fingerprint,
            "stream": card.stream,
            "widths": json.dumps(card.widths),
            "recipe": json.dumps(card.recipe, sort_keys=True),
            "parameters": json.dumps(small.parameter_counts()),
        }


def _members(program: Program) -> list[Member]:
    """Doubles first, so that nothing has to be filled up."""
    work = [Member("work", "float", program.work, False)] if program.work else []
    return sorted([*program.members, *work], key=lambda member: member.kind)


def _state_size(program: Program) -> int:
    """Bytes: the count of steps, the place in the rings, and the members, filled up to a multiple of eight."""
    members = sum(member.bytes for member in _members(program))
    return 8 * (1 + bool(program.taps) + -(-members // 8))


def _header(program: Program, told: _Metadata) -> str:
    spec, name, upper = told.spec, told.name, told.upper
    members = "".join(f"    {member.kind} {member.name}[{member.size}];\n" for member in _members(program))
    at = "    size_t at;\n" if program.taps else ""
    meaning = (
        "Each class is one by itself: its probability is 1 / (1 + exp(-logit))."
        if told.card.several
        else "One class is meant: the largest logit's. Probabilities are their softmax."
    )
    return f"""/* A model in C99, written by harvib export: see the source beside this header.

   A clip is a row of frames, a frame {spec.features} features, those of the stream and the feature extractor that
   `{name}_stream` and `{name}_fingerprint` name. {meaning}

   Frame by frame:              A whole clip, (steps, {spec.features}) row by row:

       {name}_state state;
       {name}_init(&state);     {name}_clip(features, steps, logits);
       {name}_step(&state, frame);
       {name}_logits(&state, logits);

   No memory is allocated and nothing is shared: any number of states may be in use at once, each by one thread at
   a time. The only function of libc is expf. */
#ifndef {upper}_H
#define {upper}_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_FEATURES {spec.features}
#define {upper}_CLASSES {spec.classes}
/* 1 where a clip may be of several classes. */
#define {upper}_SEVERAL {int(told.card.several)}

/* What a clip has left so far. Nobody but the functions below looks inside; copy it to go on from here twice. */
typedef struct {name}_state {{
    double steps;
{at}{members}}} {name}_state;

/* The classes in the order of the logits, UTF-8. */
extern const char *const {name}_classes[{upper}_CLASSES];
/* The format of this file, the fingerprint of the features, the stream of their cache, how many of the features
   each of several joined streams has (JSON, [] for one stream), all that makes such features of a video (JSON,
   {{}} where nobody knows), and the counts of the parameters (JSON). */
{_texts(told, "extern const char {name}_{key}[];")}
/* Begin a clip; a state must have begun before its first step. */
void {name}_init({name}_state *state);
/* See one more frame. */
void {name}_step({name}_state *state, const float features[{upper}_FEATURES]);
/* The logits of the frames so far, as of a clip that ends here. Before the first frame they mean nothing. */
void {name}_logits(const {name}_state *state, float logits[{upper}_CLASSES]);
/* The same for a whole clip of one step or more. It takes a state from the stack. */
void {name}_clip(const float *features, size_t steps, float logits[{upper}_CLASSES]);

#ifdef __cplusplus
}}
#endif

#endif
"""


def _texts(told: _Metadata, line: str) -> str:
    return "".join(
        line.format(name=told.name, key=key, text=characters(text)) + "\n" for key, text in told.texts.items()
    )


def _source(program: Program, told: _Metadata, include: str, step: str, head: str) -> str:
    name, upper = told.name, told.upper
    helpers = "\n".join(text.replace("@", name) for key, text in HELPERS.items() if key in program.helpers)
    classes = "".join(f"    {string(text)},\n" for text in told.card.classes)
    cleared = "".join(
        f"    {name}_{'clear' if member.kind == 'float' else 'clear_sums'}(s->{member.name}, {member.size});\n"
        for member in program.members
        if member.zero
    )
    at = "    s->at = 0;\n" if program.taps else ""
    maths = "#include <math.h>\n" if "expf(" in helpers else ""
    parts = [
        f'/* Written by harvib export; its header says how it is used. */\n#include "{include}"\n\n'
        f"{maths}#include <stdint.h>\n",
        f"const char *const {name}_classes[{upper}_CLASSES] = {{\n{classes}}};\n"
        + _texts(told, "const char {name}_{key}[] = {text};"),
        *program.constants,
        helpers,
        *program.functions,
        f"void {name}_init({name}_state *s)\n{{\n    s->steps = 0.0;\n{at}{cleared}}}\n",
        f"void {name}_step({name}_state *s, const float features[{upper}_FEATURES])\n{{\n{step}}}\n",
        f"void {name}_logits(const {name}_state *s, float logits[{upper}_CLASSES])\n{{\n{head}}}\n",
        f"""void {name}_clip(const float *features, size_t steps, float logits[{upper}_CLASSES])
{{
    {name}_state state;
    size_t t;
    {name}_init(&state);
    for (t = 0; t < steps; t++)
        {name}_step(&state, features + t * {upper}_FEATURES);
    {name}_logits(&state, logits);
}}
""",
    ]
    return "\n".join(part for part in parts if part)
