"""All settings of a training run, one frozen dataclass; the command-line options come from its fields."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from harvib.cells import CELLS
from harvib.errors import InputError
from harvib.factorised import KINDS
from harvib.factorised.asked import Asked
from harvib.pooling.asked import DIAGONALS
from harvib.pooling.asked import KINDS as POOLINGS
from harvib.pooling.asked import Asked as AskedPooling
from harvib.precision import PRECISIONS
from harvib.readout import READOUTS
from harvib.schedule import SCHEDULES, Schedule
from harvib.settings_rules import check

METHODS = ("vib", "lasso", "magnitude", "movement", "plain")
LASSO_TIMES = ("with-vib", "after-vib")


def _option(default: Any, text: str, **limits: Any) -> Any:
    """A field with its help text and its limits: `low`, `high` (both allowed), `choices`."""
    return field(default=default, metadata={"help": text, **limits})


def _check_limits(settings: Any) -> None:
    for item in dataclasses.fields(settings):
        value, option = getattr(settings, item.name), f"--{item.name.replace('_', '-')}"
        choices, low, high = (item.metadata.get(key) for key in ("choices", "low", "high"))
        if choices is not None and value not in choices:
            raise InputError(f"{option} {value}: choose one of {', '.join(choices)}")
        # Written so that NaN fails too.
        if low is not None and not value >= low:
            raise InputError(f"{option} {value}: must be at least {low}")
        if isinstance(value, float) and not value < float("inf"):
            raise InputError(f"{option} {value}: must be finite")
        if high is not None and value > high:
            raise InputError(f"{option} {value}: must be at most {high}")


@dataclass(frozen=True)
class BackboneSettings:
    """The backbone of a run on videos; its last block is trained too, in every stage."""

    backbone: str = _option("tf_efficientnet_lite0", "videos: timm model whose last block is trained")
    backbone_weights: str = _option(
        "auto", "videos: auto (timm downloads), or safetensors as `harfeat weights` writes them"
    )
    backbone_lr: float = _option(1e-4, "videos: learning rate of the last block; 0: it is frozen", low=0, high=1e6)

    def __post_init__(self) -> None:
        _check_limits(self)


@dataclass(frozen=True)
class TrainSettings:
    """Settings of `harvib train`; validated when made.

    Losses: cross entropy in nats per clip, of several labels summed over the classes; betas multiply the masks' KL
    in nats. Rates are Adam's.
    """

    method: str = _option(
        "vib",
        "prune by VIB, by group lasso alone, or by the groups' norms or movement; then compact, fine-tune. plain: "
        "only train",
        choices=METHODS,
    )
    model: str = _option(
        "lstm",
        "recurrent cell; conv: temporal convolution, mlp: mean over time + MLP, mean: mean over time + linear, "
        "linear: the same with --hidden values between; dbof, netvlad, netfv: clusters of frames, pooled",
        choices=(*CELLS, *POOLINGS),
    )
    hidden: int = _option(
        256,
        "hidden units of the plain model, in each layer and direction; of a pooling model's FC layer",
        low=1,
    )
    clusters: str = _option("64", "pooling models: clusters, one number or one a stream, such as 8192,4096")
    circulant: str = _option("", "pooling models: circulant layers, of clusters, fc, moe, gating; such as fc,moe")
    circulant_diagonal: str = _option(
        "learned", "--circulant: diagonals that are learned, or of fixed random signs", choices=DIAGONALS
    )
    experts: int = _option(4, "pooling models: logistic experts a class, beside a dummy; 0: a linear layer", low=0)
    gating: bool = _option(True, "pooling models: context gating of the classes")
    bags: int = _option(10, "dbof: bags of frames, a maximum in each, the mean of all; 0: one maximum", low=0)
    bag_frames: int = _option(15, "dbof: frames drawn for a bag", low=1)
    layers: int = _option(1, "layers of cells", low=1, high=16)
    bidirectional: bool = _option(False, "cells in both directions in each layer")
    kernel: int = _option(3, "steps that a unit of --model conv sees", low=1, high=1000)
    project: int = _option(
        0, "units of a linear projection before the cells, which the head reads beside them; 0: none", low=0
    )
    factorize: str = _option(
        "none",
        "structured form of the matrix that reads the inputs (W_ih, or the projection's): tensor train, block "
        "term, tensor ring, hierarchical Tucker, canonical polyadic, low rank, circulant with a learned diagonal "
        "or with one of fixed signs; sparse: VIB on every weight",
        choices=("none", *KINDS),
    )
    rank: int = _option(4, "--factorize: rank of every bond", low=1)
    ranks: str = _option("", "--factorize: the input matrix's ranks one by one instead, such as 4,4,4")
    input_modes: str = _option("", "--factorize: factors of the inputs, such as 8x20x20x18; else balanced ones")
    unit_modes: str = _option(
        "", "--factorize: factors of the units, such as 4x4x4x4; the gates multiply the first"
    )
    blocks: int = _option(2, "--factorize bt: blocks", low=1)
    factors: int = _option(
        1, "circulant matrices, by --factorize or --circulant: how many factors are multiplied", low=1
    )
    factorize_hidden: bool = _option(False, "--factorize: W_hh in the same form, every bond of --rank")
    input_init: str = _option(
        "torch",
        "input weights start within 1/sqrt(hidden) (torch), or 1/sqrt(inputs): for few units on many inputs",
        choices=("torch", "fan-in"),
    )
    readout: str = _option(
        "auto", "what of the states the head reads; auto: their mean, of mlp the last", choices=("auto", *READOUTS)
    )
    views: bool = _option(True, "train on the cache's views, one drawn a clip and epoch, where it has some")
    halves: bool = _option(False, "train on one half in time of each clip, drawn anew each epoch")
    normalize: bool = _option(False, "divide each feature row by its L2 norm, before all else; part of the model")
    standardize: bool = _option(False, "standardise features by the train part (folds away when compacted)")
    select_inputs: int = _option(0, "read only the N inputs with the highest ANOVA F on train; 0: all", low=0)
    dropout: float = _option(0.2, "dropout of input features of the plain and masked model", low=0, high=0.95)
    finetune_dropout: float = _option(0.5, "dropout of input features of the compact model", low=0, high=0.95)
    label_smoothing: float = _option(
        0.0, "label smoothing of the cross entropy; clips with several labels have none", low=0, high=0.5
    )
    beta: float = _option(3e-3, "strength of the KL of the gate masks", low=0)
    beta_input: float = _option(1e-4, "strength of the KL of the input mask", low=0)
    lasso: float = _option(0.0, "strength of the group lasso over hidden units; 0: off", low=0)
    lasso_input: float = _option(0.0, "strength of the group lasso over inputs; 0: off", low=0)
    lasso_threshold: float = _option(
        0.0, "zero groups with a norm below it, the penalty in the loss; 0: zero them by proximal steps", low=0
    )
    lasso_time: str = _option("with-vib", "group lasso of --method vib: at once, or after it", choices=LASSO_TIMES)
    lasso_epochs: int = _option(30, "epochs of the group lasso where it has a stage of its own", low=1)
    lasso_lr: float = _option(1e-3, "learning rate of that stage", low=0, high=1e6)
    movement_epochs: int = _option(30, "epochs in which --method movement watches the weights", low=1)
    movement_lr: float = _option(1e-3, "learning rate of that stage", low=0, high=1e6)
    target_params: int = _option(0, "parameters to end with; scales both betas to meet it; 0: off", low=0)
    target_ratio: float = _option(0.0, "how many times fewer parameters than the plain model; 0: off", low=0)
    max_drop: float = _option(
        -1.0,
        "end as small as validation accuracy (several labels: GAP@20) may fall by so many percentage points; -1: "
        "off",
        low=-1,
        high=100,
    )
    warmup: float = _option(0.3, "share of VIB training over which the KL grows to full strength", low=0, high=1)
    distill: float = _option(0.8, "weight of the plain model's soft targets after it", low=0, high=1)
    temperature: float = _option(2.0, "temperature of the soft targets", low=0.1, high=1e6)
    plain_epochs: int = _option(15, "epochs of the plain model", low=1)
    vib_epochs: int = _option(30, "epochs of VIB training", low=1)
    finetune_epochs: int = _option(50, "epochs of fine-tuning the compact model; 0: leave it as it is", low=0)
    keep_scales: bool = _option(False, "fine-tune with the masks' means as factors of the gates, not with 0/1")
    batch: int = _option(32, "clips in a step", low=1)
    lr: float = _option(1e-3, "learning rate of the plain model", low=0, high=1e6)
    vib_lr: float = _option(3e-4, "learning rate of the weights in VIB training", low=0, high=1e6)
    mask_lr: float = _option(3e-2, "learning rate of the masks", low=0, high=1e6)
    finetune_lr: float = _option(5e-3, "learning rate of fine-tuning", low=0, high=1e6)
    schedule: str = _option(
        "cosine",
        "learning rate over a stage, after its warm-up: to zero by half a cosine or on a line, constant, a tenth "
        "at half of it and again at three quarters, or times --decay-factor every --decay-examples clips",
        choices=SCHEDULES,
    )
    decay_examples: int = _option(4_000_000, "--schedule examples: clips after which the rate falls", low=1)
    decay_factor: float = _option(0.8, "--schedule examples: by which it falls each time", low=0.01, high=1)
    warmup_epochs: int = _option(0, "epochs over which the learning rate rises at the start of each stage", low=0)
    patience: int = _option(
        0,
        "end plain training and fine-tuning after so many epochs in a row without a better validation accuracy "
        "(several labels: GAP@20), and keep the best of all; 0: run all epochs, keep the best of the last quarter",
        low=0,
    )
    precision: str = _option(
        "auto",
        "numbers of the forward and backward pass, weights and evaluation stay float32; auto: bfloat16 on a GPU "
        "that computes in it, else float32",
        choices=PRECISIONS,
    )
    weight_decay: float = _option(0.3, "weight decay of the weights, never of the masks", low=0, high=1e6)
    clip_norm: float = _option(1.0, "largest norm of the gradient", low=1e-6)
    validation: float = _option(0.2, "share of train held out, by group, to select on", low=0.01, high=0.5)
    seed: int = _option(0, "seed of initialisation, order, noise and held-out groups", low=0, high=2**32 - 1)

    def __post_init__(self) -> None:
        _check_limits(self)
        check(self)

    @property
    def pooling(self) -> AskedPooling | None:
        """The pooling model that is asked for; None for another."""
        if self.model not in POOLINGS:
            return None
        return AskedPooling(
            self.model,
            self.clusters,
            self.hidden,
            self.circulant,
            self.circulant_diagonal,
            self.factors,
            self.experts,
            self.gating,
            self.bags,
            self.bag_frames,
        )

    @property
    def structure(self) -> Asked | None:
        """The structured matrices that are asked for; None for dense ones."""
        if self.factorize == "none":
            return None
        return Asked(
            self.factorize, self.rank, self.ranks, self.input_modes, self.unit_modes, self.blocks, self.factors
        )

    @property
    def scales_stay(self) -> bool:
        """Whether the masks' factors end as parameters of the compact cell."""
        return self.keep_scales or self.finetune_epochs == 0

    @property
    def rates(self) -> Schedule:
        """How learning rates fall over a stage."""
        return Schedule(self.schedule, self.decay_examples, self.decay_factor, self.batch)

    @property
    def ranks_groups(self) -> bool:
        """Whether masks stay open until whole groups of weights are ranked, to be cut to a budget."""
        return self.method in ("lasso", "magnitude", "movement")

    @property
    def units_stay(self) -> bool:
        """Whether only single weights are ranked, so that all units stay."""
        return self.method == "magnitude" and self.structure is not None
