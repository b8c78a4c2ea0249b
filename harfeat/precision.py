"""Which arithmetic a network gets: the fastest that this machine has and that keeps its features.

How much a reduced precision costs depends on the network: bfloat16 leaves resnet50's features at a cosine of
0.99999 to float32, and EfficientNet-Lite0's at 0.995 (125 frames of genuine clips). So `auto` measures it when the
network is loaded, on pictures drawn from a seed: the choice depends on network and machine, never on the clips.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from harfeat.errors import InputError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LEAST_COSINE = 0.9995
"""Of each calibration picture's features to float32: half the distance that features of clips may have (0.999)."""
PICTURES = 16


@dataclass(frozen=True)
class Precision:
    """The choice, what was asked for, and for each precision that was tried its least cosine to float32."""

    name: str
    asked: str
    cosines: dict[str, float] = field(default_factory=dict)

    @property
    def note(self) -> str | None:
        """One line for the user where a faster precision was passed over."""
        passed = [name for name, value in self.cosines.items() if name != self.name and not value > LEAST_COSINE]
        if not passed:
            return None
        found = ", ".join(f"{name} has a cosine of {self.cosines[name]:.4f}" for name in passed)
        return (
            f"precision {self.name}: to float32, {found} (least of {PICTURES} pictures; {LEAST_COSINE} is asked)"
        )


def choose_precision(asked: str, network: nn.Module, pictures: Tensor) -> tuple[Precision, nn.Module]:
    """The precision, and the network in it.

    `network` is float32; `pictures` (B, 3, H, W) are normalised and on its device.
    Raises InputError where the precision that was asked for cannot be had with this network.
    """
    if asked == "float32":
        return Precision(asked, asked), network
    if asked != "auto":
        reduced = copy.deepcopy(network).to(PRECISIONS[asked])
        try:
            features_in(reduced, pictures[:1], asked)
        except RuntimeError as error:
            reason = (str(error).splitlines() or ["it fails"])[0]
            raise InputError(f"--precision {asked}: this model cannot compute in it here: {reason}") from error
        return Precision(asked, asked), reduced
    cosines: dict[str, float] = {}
    candidates = _native(pictures.device)
    expected = features_in(network, pictures, "float32") if candidates else None
    for name in candidates:
        assert expected is not None
        reduced = copy.deepcopy(network).to(PRECISIONS[name])
        try:
            got = features_in(reduced, pictures, name)
        except RuntimeError:  # a network that mixes types; the note tells of a cosine of 0
            cosines[name] = 0.0
            continue
        cosines[name] = float(torch.cosine_similarity(got.double(), expected.double()).nan_to_num(0.0).min())
        if cosines[name] > LEAST_COSINE:
            return Precision(name, asked, cosines), reduced
    return Precision("float32", asked, cosines), network


@torch.inference_mode()
def features_in(network: nn.Module, pictures: Tensor, precision: str) -> Tensor:
    """(B, 3, H, W) float32, normalised, to (B, D) float32 by a network of that precision."""
    x = pictures.to(dtype=PRECISIONS[precision], memory_format=torch.channels_last)
    features: Tensor = network(x)
    return features.float()


def calibration_pictures(height: int, width: int) -> np.ndarray:
    """(16, 3, H, W) uint8 noise whose spectrum falls as photographs' does, with correlated colours.

    On EfficientNet-Lite0 in bfloat16 the least cosine of its features is 0.9945, on genuine clips 0.9953.
    """
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    pictures = []
    for number in range(PICTURES):
        draw = random.normal(size=(2, 3, *frequency.shape))
        spectrum = (draw[0] + 1j * draw[1]) / frequency ** (1 + number % 3 / 2)
        spectrum[:, 0, 0] = 0
        colours = np.fft.irfft2(spectrum, s=(height, width))
        picture = 0.3 * colours + 0.7 * colours.mean(0)
        picture *= (30 + 10 * (number % 4)) / picture.std()
        pictures.append((picture + 110 + 10 * (number % 3)).clip(0, 255).astype(np.uint8))
    return np.stack(pictures)


def _native(device: torch.device) -> tuple[str, ...]:
    """Precisions that the processor multiplies natively, by speed; on a CPU that means AVX512-BF16 or AMX."""
    if device.type == "cuda":
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bfloat16", "float16") if bfloat16 else ("float16",)
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ()
    return ("bfloat16",) if _native_bfloat16() else ()


def _native_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
