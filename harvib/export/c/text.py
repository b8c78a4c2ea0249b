"""Names, numbers and texts as C99 writes them."""

from __future__ import annotations

import math
import re
import textwrap

import numpy as np

_LONGEST = 1000
"""Bytes of a literal; C99 promises 4095 characters as they are written, and one may take four."""


def identifier(text: str) -> str:
    """A name that C takes, of ASCII letters, digits and underscores, made from any text."""
    name = re.sub(r"[^0-9A-Za-z_]", "_", text)
    # Names with an underscore in front belong to the compiler.
    return name if re.match("[A-Za-z]", name) else f"model_{name}"


def string(text: str) -> str:
    """A literal of the UTF-8 bytes of a text; no trigraph and no escape can arise in it."""
    return '"' + "".join(map(_character, text.encode())) + '"'


def characters(text: str) -> str:
    """What initialises an array of char with it: a literal, or a list where C99 promises none so long."""
    if len(text.encode()) <= _LONGEST:
        return string(text)
    listed = ", ".join("'\\''" if byte == ord("'") else f"'{_character(byte)}'" for byte in text.encode())
    return f"{{\n{_filled(listed)}, 0\n}}"


def _character(byte: int) -> str:
    # Three octal digits end by themselves; hexadecimal ones would take in what follows.
    if not 32 <= byte < 127:
        return f"\\{byte:03o}"
    return f"\\{chr(byte)}" if chr(byte) in '"\\?' else chr(byte)


def number(value: float) -> str:
    """A float32 as a hexadecimal literal: exactly this value, whatever the compiler."""
    if value == math.floor(value) and abs(value) < 1e4:
        return f"{value:.1f}f"
    mantissa, exponent = float(value).hex().split("p")
    return f"{mantissa.rstrip('0')}p{exponent}f"


def constant(name: str, values: np.ndarray, kind: str = "") -> str:
    """An array of one or two dimensions that nothing can change; `kind` is its type, told by its dtype if not."""
    kind = kind or type_of(values)
    write = number if kind == "float" else str
    shape = "".join(f"[{size}]" for size in values.shape)
    rows = [", ".join(map(write, row)) for row in np.atleast_2d(values).tolist()]
    if values.ndim == 1:
        inside = _filled(rows[0])
    else:
        inside = ",\n".join(f"    {{\n{textwrap.indent(_filled(row), '    ')}\n    }}" for row in rows)
    return f"static const {kind} {name}{shape} = {{\n{inside}\n}};\n"


def type_of(values: np.ndarray) -> str:
    """The C type of the entries of an array."""
    if values.dtype == np.float32:
        return "float"
    return {"i": "signed char", "u": f"uint{8 * values.itemsize}_t"}[values.dtype.kind]


def _filled(text: str) -> str:
    # textwrap takes minutes for a million numbers.
    lines, line = [], "   "
    for item in text.split(", "):
        if len(line) + len(item) > 110:
            lines.append(line + ",")
            line = "   "
        line += f" {item}" if line == "   " else f", {item}"
    return "\n".join([*lines, line])
