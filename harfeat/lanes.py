"""Batches through a network side by side: one thread a CPU core, two threads a GPU.

On a CPU each batch is one core's work from start to end. Cores never wait for each other inside a batch, which
they would whenever a decoding process holds one of them; and a feature does not depend on their number. On a
GPU the second thread has the next batch copied (from pinned memory) and queued while the first waits for its
features. Python's lock is free while PyTorch computes, so threads suffice.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import joblib
import numpy as np
import torch
from torch import Tensor, nn

from harfeat.precision import features_in

CPU_BATCH = 8
"""Frames at once on one core; what more of them need falls out of its cache."""
MOST_CPU_LANES = 32
GPU_LANES = 2


class Pending:
    """Features that are being computed."""

    def __init__(self, parts: Sequence[Future[np.ndarray]]) -> None:
        self._parts = parts

    def done(self) -> bool:
        """Whether `result` would return at once."""
        return all(part.done() for part in self._parts)

    def cancel(self) -> bool:
        """Begin no more of it; whether nothing had begun."""
        cancelled = [part.cancel() for part in self._parts]
        return all(cancelled)

    def result(self) -> np.ndarray:
        """(B, D) float32; waits for them, and raises what the network raised."""
        return np.concatenate([part.result() for part in self._parts])


class Lanes:
    """Runs `network` on the device that holds it.

    `mean` and `std` are those of a channel, in units of pixels (0 to 255).
    """

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        precision: str,
        mean: Sequence[float],
        std: Sequence[float],
        batch: int,
    ) -> None:
        self.batch = min(batch, CPU_BATCH) if device.type == "cpu" else batch
        lanes_of = {"cpu": min(joblib.cpu_count(), MOST_CPU_LANES), "cuda": GPU_LANES}
        self.count = lanes_of.get(device.type, 1)
        self._network, self._device, self._precision = network, device, precision
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1) for values in (mean, std)
        )
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(self.count, "model", self._enter)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # the lanes' streams do not wait for the one that loaded all this

    def start(self, pixels: np.ndarray) -> Pending:
        """(B, 3, H, W) uint8, any B of at least 1, cut into parts for the lanes; does not wait for them."""
        parts = (pixels[at : at + self.batch] for at in range(0, len(pixels), self.batch))
        return Pending([self._threads.submit(self._run, part) for part in parts])

    def _enter(self) -> None:
        self._own.stream = None
        if self._device.type == "cpu":
            torch.set_num_threads(1)  # of this thread only
        elif self._device.type == "cuda":
            self._own.stream = torch.cuda.Stream(self._device)

    @torch.inference_mode()
    def _run(self, pixels: np.ndarray) -> np.ndarray:
        """A batch that is not full is padded.

        Kernels are chosen by the size of the batch, and a frame's feature must not depend on how many others
        came with it.
        """
        stream = self._own.stream
        with ExitStack() as stack:
            if stream is not None:
                stack.enter_context(torch.cuda.device(self._device))
                stack.enter_context(torch.cuda.stream(stream))
            features = features_in(self._network, self._on_device(pixels), self._precision)
            return features[: len(pixels)].cpu().numpy()

    def _on_device(self, pixels: np.ndarray) -> Tensor:
        full = torch.zeros((self.batch, *pixels.shape[1:]), dtype=torch.uint8)
        full[: len(pixels)] = torch.from_numpy(pixels)
        if self._own.stream is not None:
            full = full.pin_memory()
        return full.to(self._device, non_blocking=True).float().sub_(self._mean).div_(self._std)
