"""A run on videos: the last block of an image backbone is trained together with the recurrent model and its masks.

The trunk below the block stays as it is. It sees every frame once, before training; what it makes of them lies in
the run folder until the run is finished. In every stage the block has a learning rate of its own; its batch
normalisation keeps the statistics it came with (scale and shift are trained). After VIB training the dropped
features leave the block too, exactly, and what is exported is the whole backbone, really smaller.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from typing_extensions import Self

from harvib.backbone_blocks import Block
from harvib.backbones import FILE, Backbone, load_backbone, save_backbone
from harvib.budget import target_of
from harvib.data import load_parts, view_streams
from harvib.devices import best_device
from harvib.division import divide
from harvib.errors import InputError
from harvib.events import needs_tensorboard
from harvib.front import Ahead, Front
from harvib.manner import Manner
from harvib.methods import reported, run_stages
from harvib.outcome import AGREEMENT
from harvib.precision import dtype_of
from harvib.pretrained import pretrained
from harvib.runconfig import config_of, plain_spec
from harvib.rundir import RunFolder
from harvib.seen import SeenCache, frame_size
from harvib.settings import BackboneSettings, TrainSettings
from harvib.source import Source, opened, require_complete, source_of
from harvib.stages import Stages
from harvib.weights import card_of


class BlockFront(Front):
    """Rows that are maps (C, h, w), flat, to the features of the block."""

    def __init__(self, block: Block, shape: tuple[int, ...], lr: float) -> None:
        super().__init__()
        self.block, self.shape, self.lr = block, shape, lr
        self.requires_grad_(lr > 0)

    def forward(self, x: Tensor) -> Tensor:
        maps = x.reshape(-1, *self.shape).to(next(self.block.parameters()).dtype)
        return self.block(maps).view(*x.shape[:2], -1)

    def train(self, mode: bool = True) -> Self:
        # A batch holds frames of few clips: its statistics would say more of the clips than of pictures.
        return super().train(False)

    def shrunk(self, kept: Tensor) -> Self:
        return type(self)(self.block.shrunk(kept), self.shape, self.lr)


def train(
    videos: Path | Source,
    split: str,
    settings: TrainSettings,
    chosen: BackboneSettings,
    run_dir: Path,
    device: torch.device | None = None,
    allow_missing: bool = False,
    manner: Manner | None = None,
) -> dict[str, Any]:
    """Run all stages of `settings.method` on a cache of frames; the report, as of `harvib.methods.train`.

    `report["backbone"]` tells parameters, multiply-adds and bytes of the backbone, before and after; the
    parameters elsewhere in the report are of the recurrent model and its head alone. Raises InputError and
    CacheError.
    """
    if settings.normalize:
        raise InputError(
            "--normalize: on videos the dropped features leave the backbone, and with them the length of a row; "
            "leave it out"
        )
    device, manner = device or best_device(), manner or Manner()
    dtype_of(settings.precision, device)
    if manner.tensorboard:
        needs_tensorboard()
    with opened(source_of(videos)) as (frames, stream):
        require_complete(frames, allow_missing)
        height, width = frame_size(frames, stream)
        backbone, weights = pretrained(chosen.backbone, chosen.backbone_weights)
        backbone.to(device)
        division = divide(frames, split, settings.validation, settings.seed)
        card = card_of(frames, stream)
        config = config_of(frames, stream, split, settings, division, None)
        told = {"model": chosen.backbone, "weights": weights, "lr": chosen.backbone_lr}
        config["backbone"] = told | {"from": Path(chosen.backbone_weights).name}
        costs = backbone.costs(height, width)
        target_of(settings, plain_spec(settings, costs["features"], card))
        folder = RunFolder(run_dir)
        folder.begin(config)
        rows = folder.path / "maps"
        if folder.is_finished():
            shutil.rmtree(rows, ignore_errors=True)
            return reported(folder, manner)
        with torch.inference_mode():
            shape = backbone.maps(torch.zeros(1, 3, height, width, device=device)).shape[1:]

        def see(images: Tensor) -> Tensor:
            return backbone.maps(images).flatten(1)

        seen = SeenCache(frames, stream, see, shape.numel(), np.float16, device, rows)
        wanted = {stream: np.concatenate([division.train, division.validation, division.test])}
        if settings.views:
            wanted |= dict.fromkeys(view_streams(frames, stream), division.train)
        seen.compute(wanted)
        common = (settings.validation, settings.seed, settings.views, stream)
        parts = load_parts(seen, split, *common, halves=settings.halves)
        front = BlockFront(copy.deepcopy(backbone.block), tuple(shape), chosen.backbone_lr)

        def export(target: Path, trained: Front) -> dict[str, Any]:
            assert isinstance(trained, BlockFront)
            small = backbone.with_block(trained.block)
            save_backbone(target / FILE, small)
            clip, features = int(division.validation[0]), len(small.block.kept)
            loaded = SeenCache(frames, stream, load_backbone(target).to(device), features, np.float32, device)
            with torch.inference_mode():
                maps = torch.from_numpy(np.array(seen.read(clip, stream).features)).to(device)
                ours = trained(maps[None])[0].cpu().numpy()
            return told | {
                "before": costs | {"bytes": len(safetensors.torch.save(_plain(backbone)))},
                "after": small.costs(height, width) | {"bytes": (target / FILE).stat().st_size},
                "max_abs_difference": _agreement(ours, loaded.rows_of(clip, stream)),
            }

        stages = Stages(folder, settings, parts, card, device, manner, Ahead(front, export))
        report = run_stages(stages, config)
        if folder.is_finished():
            shutil.rmtree(rows)
    return report


def _plain(backbone: Backbone) -> dict[str, Tensor]:
    return {name: value.cpu().contiguous() for name, value in backbone.state_dict().items()}


def _agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference of a clip's features by the exported file, from its frames, to those in training.

    Relative to the largest feature. A difference beyond rounding is a defect of this program: RuntimeError.
    """
    difference = float(np.abs(ours - theirs).max() / max(1.0, np.abs(ours).max()))
    if not difference <= 100 * AGREEMENT:
        raise RuntimeError(f"the exported backbone and the trained one differ by {difference:.2e}")
    return difference
