"""A C program under construction: constants, functions, what a state holds, and the lines of one step.

No line may be one that a compiler takes for memcpy or memset, a plain copy or fill of an array: it would call a
function of libc for it, and the program is to need none but expf. So zeros are written through a
volatile pointer, and whatever else is stored is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harvib.export.c.text import constant

HELPERS = {
    "sigmoid": """static float @_sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}
""",
    "tanh": """/* Not tanhf, which takes thrice the time; no further from the true value than 1.2e-7. */
static float @_tanh(float x)
{
    return 2.0f / (1.0f + expf(-2.0f * x)) - 1.0f;
}
""",
    "relu": """static float @_relu(float x)
{
    return x < 0.0f ? 0.0f : x;
}
""",
    "length": """/* The square root of a sum of squares, by Newton's rule. */
static float @_length(double x)
{
    double root = 1.0, scale = 1.0;
    int i;
    if (!(x > 0.0) || x - x != 0.0)
        return (float)x;
    for (; x >= 4.0; x *= 0.25)
        scale *= 2.0;
    for (; x < 1.0; x *= 4.0)
        scale *= 0.5;
    for (i = 0; i < 6; i++)
        root = 0.5 * (root + x / root);
    return (float)(root * scale);
}
""",
    "clear": """/* Volatile, or compilers would call memset. */
static void @_clear(volatile float *x, size_t size)
{
    size_t i;
    for (i = 0; i < size; i++)
        x[i] = 0.0f;
}
""",
    "clear_sums": """static void @_clear_sums(volatile double *x, size_t size)
{
    size_t i;
    for (i = 0; i < size; i++)
        x[i] = 0.0;
}
""",
}
"""Functions that some programs need; @ stands for the name of the program."""


@dataclass(frozen=True)
class Member:
    """An array in the state: `kind` float or double, `size` values; `zero`: those that a fresh state has at 0."""

    name: str
    kind: str
    size: int
    zero: bool

    @property
    def bytes(self) -> int:
        """What it takes in a state."""
        return self.size * (8 if self.kind == "double" else 4)


class Program:
    """All file-scope names begin with `name`, so that several programs can stand in one file.

    `int8`: matrices are stored in 8 bits a weight. `taps`: steps that the rings of its convolutions hold, the same
    in all layers.
    """

    def __init__(self, name: str, int8: bool = False) -> None:
        self.name, self.int8 = name, int8
        self.constants: list[str] = []
        self.functions: list[str] = []
        self.members: list[Member] = []
        self.step: list[str] = []
        self.bytes = 0
        self.taps = 0
        self.helpers: set[str] = set()
        self.work = 0
        self._taken = 0

    def constant(self, what: str, values: np.ndarray) -> str:
        """An array of constants; its name."""
        name = f"{self.name}_{what}{len(self.constants)}"
        self.constants.append(constant(name, values))
        self.bytes += values.nbytes
        return name

    def function(self, what: str, parameters: str, body: str) -> str:
        """A function without a value; its name. `body` is its lines, indented."""
        name = f"{self.name}_{what}{len(self.functions)}"
        self.functions.append(f"static void {name}({parameters})\n{{\n{body}}}\n")
        return name

    def member(self, what: str, size: int, kind: str = "float", zero: bool = True) -> str:
        """An array in the state that a step leaves to the next; how a step calls it."""
        name = f"{what}{len(self.members)}"
        self.members.append(Member(name, kind, size, zero))
        if zero:
            self.helper("clear" if kind == "float" else "clear_sums")
        return f"s->{name}"

    def helper(self, which: str) -> str:
        """The name of one of HELPERS."""
        self.helpers.add(which)
        return f"{self.name}_{which}"

    def scratch(self, size: int) -> str:
        """So many floats that hold until `layer` is called."""
        at = self._taken
        self._taken += size
        self.work = max(self.work, self._taken)
        return f"(s->work + {at})"

    def layer(self) -> None:
        """What comes needs nothing of the scratch taken before."""
        self._taken = 0

    def loop(self, size: int, *lines: str) -> None:
        """Lines of the step for each j below `size`."""
        inside = "".join(f"        {line}\n" for line in lines)
        self.step.append(f"    for (j = 0; j < {size}; j++) {{\n{inside}    }}\n")
