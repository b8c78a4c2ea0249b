"""Peak memory of one model in one runtime: what runs in a child process, `python -m harvib.resident JSON`.

The child imports the runtime and makes a clip; then it notes how much memory it holds, resets the kernel's
high-water mark, loads the model, runs it three times, and reads the mark: `peak` is the difference, in bytes, and
`process` all that the process held then. So libraries that the runtime loads late count with the model that makes
it load them. Linux only: other systems have no mark to reset, and one that was never reset tells of the imports.

Nothing else of harvib is imported before the runtime asks for it: torch is none of onnxruntime's memory.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RUNS = 3
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

Load = Callable[[], Callable[[], object]]
"""Loads the models; what it returns runs them."""


def is_possible() -> bool:
    """Whether this system tells what a process holds."""
    return _STATUS.is_file() and _RESET.exists()


def _torch(parts: Sequence[Mapping[str, Any]], shape: Sequence[int]) -> Load:
    import torch  # noqa: PLC0415 - see above

    from harvib.weights import load_model  # noqa: PLC0415 - see above

    torch.set_num_threads(shape[2])
    lengths = torch.full((shape[0],), shape[1])
    clips = [torch.randn(*shape[:2], part["features"]) for part in parts]

    def load() -> Callable[[], object]:
        models = [load_model(Path(part["file"]))[0] for part in parts]

        def run() -> object:
            with torch.inference_mode():
                return [model(clip, lengths) for model, clip in zip(models, clips, strict=True)]

        return run

    return load


def _torchscript(parts: Sequence[Mapping[str, Any]], shape: Sequence[int]) -> Load:
    import torch  # noqa: PLC0415 - see above

    torch.set_num_threads(shape[2])
    lengths = torch.full((shape[0],), shape[1])
    clips = [torch.randn(*shape[:2], part["features"]) for part in parts]

    def load() -> Callable[[], object]:
        # A program of its own: nothing of harvib is needed.
        modules = [torch.jit.load(part["file"], map_location="cpu").eval() for part in parts]

        def run() -> object:
            with torch.inference_mode():
                return [module(clip, lengths) for module, clip in zip(modules, clips, strict=True)]

        return run

    return load


def _onnx(parts: Sequence[Mapping[str, Any]], shape: Sequence[int]) -> Load:
    import numpy as np  # noqa: PLC0415 - see above

    # Not by name: the checker of types need not have it.
    onnxruntime = importlib.import_module("onnxruntime")
    lengths = np.full(shape[0], shape[1], np.int64)
    clips = [_noise((*shape[:2], part["features"])) for part in parts]

    def load() -> Callable[[], object]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = shape[2], 1
        options.log_severity_level = 3
        sessions = [
            onnxruntime.InferenceSession(part["file"], options, providers=["CPUExecutionProvider"])
            for part in parts
        ]
        return lambda: [
            session.run(None, {"features": clip, "lengths": lengths})
            for session, clip in zip(sessions, clips, strict=True)
        ]

    return load


def _c(parts: Sequence[Mapping[str, Any]], shape: Sequence[int]) -> Load:
    import numpy as np  # noqa: PLC0415 - see above

    clips = [_noise((*shape[:2], part["features"])) for part in parts]

    def load() -> Callable[[], object]:
        functions = [ctypes.CDLL(part["file"])[part["function"]] for part in parts]
        logits = [np.zeros(part["classes"], np.float32) for part in parts]

        def run() -> object:
            for function, clip, out in zip(functions, clips, logits, strict=True):
                for one in clip:
                    at = ctypes.c_void_p(one.ctypes.data), ctypes.c_void_p(out.ctypes.data)
                    function(at[0], ctypes.c_size_t(shape[1]), at[1])
            return logits

        return run

    return load


def _noise(shape: Sequence[int]) -> Any:
    import numpy as np  # noqa: PLC0415 - see above

    return np.random.default_rng(0).standard_normal(shape, np.float32)


LOADERS: dict[str, Callable[[Sequence[Mapping[str, Any]], Sequence[int]], Load]] = {
    "torch": _torch,
    "torchscript": _torchscript,
    "onnx": _onnx,
    "c": _c,
}


def held(which: str) -> int:
    """Bytes of memory that this process holds (VmRSS), or held at most (VmHWM)."""
    lines = _STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))


def main(told: str) -> None:
    """Measure what the JSON tells: `loader`, `parts`, `shape` (batch, steps, threads); print a JSON object."""
    asked = json.loads(told)
    load = LOADERS[asked["loader"]](asked["parts"], asked["shape"])
    _RESET.write_text("5")
    before = held("VmRSS")
    run = load()
    for _ in range(RUNS):
        run()
    process = held("VmHWM")
    print(json.dumps({"peak": max(0, process - before), "process": process}))


if __name__ == "__main__":
    main(sys.argv[1])
