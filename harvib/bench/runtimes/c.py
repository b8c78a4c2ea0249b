"""The C that `harvib export` writes, compiled by this machine's compiler and called from here, or in a loop of C.

`$CC`, else gcc, else cc. A call through ctypes costs about as much as a small model does, so the loop tells what
the model itself takes.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harvib.bench.runtimes.base import Prepared, Resident, Runtime, Shipped, UnavailableError
from harvib.bench.settings import USUAL_STEPS
from harvib.bench.timing import Frames
from harvib.classifier import Classifier
from harvib.errors import InputError
from harvib.export.c import to_c
from harvib.export.torch import compact_form
from harvib.macs import Macs, macs_of
from harvib.models import recurrent
from harvib.weights import ModelCard

FLAGS = ("-std=c99", "-O3", "-fPIC")
MOST = 8_000_000
"""Parameters of the largest model that is written as C here: a compiler takes 230 bytes of memory for each."""
MOST_ROUNDS, WORK = 64, 4_000_000
"""Times that one call of the loop goes through its clip or frame: that many, or so many multiply-accumulates.

About a millisecond: what takes longer than a process is let run at once would tell of the others on the machine.
"""

_DRIVER = """#include "@.h"

void loop(const float *x, size_t clips, size_t steps, size_t rounds, float *logits)
{
    size_t i, round;
    for (round = 0; round < rounds; round++)
        for (i = 0; i < clips; i++)
            @_clip(x + i * steps * @U_FEATURES, steps, logits + i * @U_CLASSES);
}

void loop_frame(@_state *state, const float *x, size_t rounds, float *logits)
{
    size_t round;
    for (round = 0; round < rounds; round++) {
        @_step(state, x);
        @_logits(state, logits);
    }
}
"""
"""Apart from the model's file, so that no compiler looks into both and leaves out what changes nothing."""


def compiler() -> list[str] | None:
    """The words that call the C compiler; None where there is none."""
    if asked := os.environ.get("CC"):
        words = shlex.split(asked)
        return words if words and shutil.which(words[0]) else None
    found = shutil.which("gcc") or shutil.which("cc")
    return [found] if found else None


def told_compiler() -> str:
    """The compiler and its flags in a few words."""
    words = compiler() or []
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False)
    first = (done.stdout.splitlines() or [Path(words[0]).name])[0]
    return f"{first}, {' '.join((*words[1:], *FLAGS))}"


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled model: its library, and what is in it, in bytes."""

    library: ctypes.CDLL
    file: Path
    name: str
    features: int
    classes: int
    state: int
    shipped: Shipped
    static: dict[str, int]

    def call(self, which: str) -> Any:
        """A function of the library, of addresses and sizes."""
        function = self.library[which]
        function.restype = None
        return function


def build(model: Classifier, card: ModelCard, folder: Path, name: str, quantize: str = "none") -> Program:
    """Write, compile and load a model, its weights stored as `harvib export --quantize` says.

    Raises UnavailableError.
    """
    name = name if quantize == "none" else f"{name}_{quantize}"
    counted = model.parameter_counts()["total"]
    if counted > MOST:
        raise UnavailableError(f"{counted:,} parameters: beyond {MOST:,} a compiler takes too long")
    try:
        files = to_c(compact_form(recurrent(model, "a C form")), card, name, f"{name}.h", quantize)
    except InputError as error:
        raise UnavailableError(str(error).removeprefix("--format c: ")) from error
    source, header, driver = (folder / f"{name}{end}" for end in (".c", ".h", "-loop.c"))
    source.write_text(files.source)
    header.write_text(files.header)
    driver.write_text(_DRIVER.replace("@U", name.upper()).replace("@", name))
    objects = [folder / f"{name}.o", folder / f"{name}-loop.o"]
    library = folder / f"{name}.so"
    if not library.is_file():
        _compile_model(source, objects[0])
        _compile("-c", "-o", str(objects[1]), str(driver))
        _compile("-shared", "-o", str(library), *map(str, objects), "-lm")
    written = {"source": source.stat().st_size, "header": header.stat().st_size}
    sizes = _sizes(objects[0])
    shipped = (
        Shipped(sum(sizes.values()), "compiled code and constants", {**written, **sizes})
        if sizes
        else Shipped(sum(written.values()), "C source and header", written)
    )
    static = {"constants": files.constants, "state": files.state, **_stack(source, name)}
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError as error:
        raise UnavailableError(f"the compiled model cannot be loaded: {error}") from error
    return Program(
        loaded,
        library,
        name,
        model.spec.features,
        model.spec.classes,
        files.state,
        shipped,
        static,
    )


def _compile(*arguments: str) -> None:
    done = subprocess.run(
        [*(compiler() or []), *FLAGS, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode:
        told = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
        raise UnavailableError(f"the C compiler failed: {told or f'exit code {done.returncode}'}")


def _compile_model(source: Path, target: Path) -> None:
    words = ("-c", "-o", str(target), str(source))
    try:
        _compile("-fstack-usage", *words)
    except UnavailableError:
        # Not every compiler can tell of its stack.
        _compile(*words)


def _sizes(file: Path) -> dict[str, int]:
    """Bytes of code and of constants in an object, by `size` of the binutils; none where that is not here."""
    program = shutil.which("size")
    if program is None:
        return {}
    done = subprocess.run([program, "-A", str(file)], capture_output=True, text=True, check=False)
    found = {"code": 0, "constants": 0}
    for line in done.stdout.splitlines():
        match line.split():
            case [section, size, _] if section.startswith(".text"):
                found["code"] += int(size)
            case [section, size, _] if section.startswith((".rodata", ".data")):
                found["constants"] += int(size)
    return found if done.returncode == 0 and found["code"] else {}


def _stack(source: Path, name: str) -> dict[str, int]:
    """Bytes of stack that a step and its logits take at most, without libm's, by -fstack-usage.

    The frames of all functions but of `clip`, which is only there for the caller's comfort and holds a state, are
    added up, as if each called the next. Nothing where the compiler cannot tell.
    """
    told = source.with_suffix(".su")
    if not told.is_file():
        return {}
    lines = [line.split("\t") for line in told.read_text().splitlines()]
    usage = {place.rsplit(":", 1)[1]: int(size) for place, size, *_ in lines}
    return {"stack": sum(size for function, size in usage.items() if function != f"{name}_clip")}


class _Called(Prepared):
    """A call through ctypes a clip."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._clip = program.call(f"{program.name}_clip")
        self.shipped, self.static = program.shipped, program.static
        told = {"file": str(program.file), "function": f"{program.name}_clip", "classes": program.classes}
        self.resident = Resident("c", told)

    def ready(self, features: Tensor, lengths: Tensor) -> Any:
        x, logits = features.contiguous(), torch.zeros(len(features), self._program.classes)
        calls = [
            (_at(row), ctypes.c_size_t(steps), _at(out))
            for row, steps, out in zip(x, lengths.tolist(), logits, strict=True)
        ]
        # The tensors are held as long as their addresses are.
        return calls, x, logits

    def clip(self, given: Any) -> Any:
        for call in given[0]:
            self._clip(*call)
        return given

    def logits(self, result: Any) -> Tensor:
        found: Tensor = result[2]
        return found.clone()

    def frames(self) -> Frames | None:
        return _Frames(self._program)


class _Looped(_Called):
    """Many clips a call, gone through without Python."""

    def __init__(self, program: Program, macs: Macs) -> None:
        super().__init__(program)
        self.clips, self._frame_rounds = rounds(macs.clip), rounds(macs.step)
        self._loop = program.call("loop")

    def ready(self, features: Tensor, lengths: Tensor) -> Any:
        _, x, logits = super().ready(features, lengths)
        count, steps = (ctypes.c_size_t(size) for size in x.shape[:2])
        return (_at(x), count, steps, ctypes.c_size_t(self.clips), _at(logits)), x, logits

    def clip(self, given: Any) -> Any:
        self._loop(*given[0])
        return given

    def frames(self) -> Frames | None:
        return _LoopedFrames(self._program, self._frame_rounds)


class _Frames:
    """A state and its functions, through ctypes."""

    calls = 1

    def __init__(self, program: Program) -> None:
        self._out = torch.zeros(1, program.classes)
        self._room = ctypes.create_string_buffer(program.state)
        self._state, self._logits = ctypes.byref(self._room), _at(self._out)
        self._init, self._step, self._read = (
            program.call(f"{program.name}_{which}") for which in ("init", "step", "logits")
        )

    def begin(self) -> None:
        self._init(self._state)

    def rows(self, clip: Any) -> Sequence[Any]:
        features = clip[0][0].contiguous()
        return [(_at(row), row) for row in features]

    def see(self, row: Any) -> object:
        self._step(self._state, row[0])
        self._read(self._state, self._logits)
        return None, None, self._out


class _LoopedFrames(_Frames):
    """The same frame many times, without Python."""

    def __init__(self, program: Program, calls: int) -> None:
        super().__init__(program)
        self.calls = calls
        self._loop = program.call("loop_frame")

    def see(self, row: Any) -> object:
        self._loop(self._state, row[0], ctypes.c_size_t(self.calls), self._logits)
        return None, None, self._out


def _at(values: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(values.data_ptr())


class C(Runtime):
    """A call a clip; weights as floats, or in 8 bits."""

    title = "C"

    def __init__(self, quantize: str = "none") -> None:
        self._quantize = quantize
        if quantize != "none":
            self.title, self.exact = f"{self.title}, {quantize} weights", False

    def require(self) -> None:
        if compiler() is None:
            asked = os.environ.get("CC")
            raise UnavailableError(f"no C compiler (CC={asked})" if asked else "no C compiler (gcc or cc)")

    def prepare(self, model: Classifier, card: ModelCard, folder: Path, name: str) -> Prepared:
        return _Called(build(model, card, folder, name, self._quantize))

    def about(self) -> str:
        return told_compiler()


class CLoop(C):
    """Many clips a call."""

    title = "C, in a loop of C"

    def prepare(self, model: Classifier, card: ModelCard, folder: Path, name: str) -> Prepared:
        return _Looped(build(model, card, folder, name, self._quantize), macs_of(model, USUAL_STEPS))


def rounds(macs: int) -> int:
    """How often a loop goes through what takes so many multiply-accumulates."""
    return min(MOST_ROUNDS, max(1, WORK // max(1, macs)))
