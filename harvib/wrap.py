"""VIB masks in a model of your own, trained in your own loop.

    import torch
    from harvib import wrap

    masked = wrap.mask(model)  # a copy, with masks in every nn.LSTM, nn.GRU and nn.RNN
    optimizer = torch.optim.Adam(wrap.groups(masked, lr=1e-3, mask_lr=3e-2))
    for x, y in batches:
        loss = torch.nn.functional.cross_entropy(masked(x), y) + 3e-3 * wrap.kl(masked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(wrap.kept(masked))  # inputs and units that are still alive
    small = wrap.compact(masked)  # equal to masked.eval(), without what its masks drop

`harvib.dropin` says what the stand-ins take and return.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harvib.cells import Shape
from harvib.dropin import Compact, Masked
from harvib.errors import InputError
from harvib.masks import VIBMask

_KINDS = (nn.LSTM, nn.GRU, nn.RNN)
_TOLERANCE = 1e-4


def mask(module: nn.Module, inputs: bool = True) -> nn.Module:
    """A copy of a module with VIB masks in every nn.LSTM, nn.GRU and nn.RNN; with `inputs`, on their inputs too.

    Raises InputError where there is none, or one that cannot be masked.
    """
    found: list[Masked] = []

    def masked(name: str, part: nn.Module) -> nn.Module | None:
        if not isinstance(part, nn.RNNBase):
            return None
        _check(name, part)
        found.append(Masked(part, inputs))
        return found[-1]

    result = _replaced(copy.deepcopy(module), masked)
    if not found:
        raise InputError(f"{type(module).__name__} holds no nn.LSTM, nn.GRU or nn.RNN to be masked")
    return result


def kl(masked: nn.Module, which: Literal["all", "gates", "inputs"] = "all") -> Tensor:
    """The KL of the masks in nats, to be added to the loss times a beta: of all, of the inputs' or of the others.

    Counted once a step of the optimiser, beside a loss that is a mean over clips.
    """
    terms = [
        one.kl()
        for part in _parts(masked).values()
        for name, one in part.masks().items()
        if which == "all" or (name == "input") == (which == "inputs")
    ]
    return torch.stack(terms).sum() if terms else next(masked.parameters()).new_zeros(())


def groups(masked: nn.Module, lr: float, mask_lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: masks want a rate of their own, far higher, and no decay ever."""
    ours = [weight for one in masked.modules() if isinstance(one, VIBMask) for weight in one.parameters()]
    known = {id(weight) for weight in ours}
    weights = [weight for weight in masked.parameters() if id(weight) not in known]
    return [
        {"params": weights, "lr": lr, "weight_decay": weight_decay},
        {"params": ours, "lr": mask_lr, "weight_decay": 0.0},
    ]


def kept(masked: nn.Module) -> dict[str, tuple[int, Shape]]:
    """By the name of each wrapped part: how many inputs, and units by layer and direction, are alive now."""
    return {name: (len(part.kept_inputs()), part.kept_units()) for name, part in _parts(masked).items()}


def compact(masked: nn.Module, reader: str | None = None, example: Any = None) -> nn.Module:
    """A copy of a masked module without the inputs and units that its masks drop; equal to it in evaluation.

    Who reads the states is not known, so they stay as wide as they were, with zeros. `reader` names the nn.Linear,
    e.g. "head", that alone reads them, chosen or averaged over time and nothing else done to them: then both
    shrink. `example` is an input of the model; with it that is tried, and an InputError raised where it is wrong.
    """
    parts = _parts(masked)
    if reader is None:
        return _replaced(
            copy.deepcopy(masked), lambda _, part: Compact(part) if isinstance(part, Masked) else None
        )
    if len(parts) != 1:
        raise InputError(f"reader {reader!r}: there are {len(parts)} masked parts, with a reader there can be one")
    if example is None:
        raise InputError(f"reader {reader!r}: give an example input too, on which both models are compared")
    small = copy.deepcopy(masked)
    linear = dict(small.named_modules()).get(reader)
    (part,) = parts.values()
    if not isinstance(linear, nn.Linear) or linear.in_features != part.hidden_size * part.directions:
        raise InputError(f"reader {reader!r}: no nn.Linear of that name that reads {part.hidden_size} states")
    narrow = Compact(part, narrow=True)
    shrunk = _shrunk(linear, *narrow.reading)
    small = _replaced(
        small, lambda _, one: narrow if isinstance(one, Masked) else shrunk if one is linear else None
    )
    _compare(masked, small, reader, example)
    return small


def _replaced(module: nn.Module, swap: Callable[[str, nn.Module], nn.Module | None], name: str = "") -> nn.Module:
    """The module with all parts for which `swap` has another replaced; a part under two names stays one."""
    done: dict[int, nn.Module] = {}

    def replaced(part: nn.Module, name: str) -> nn.Module:
        if id(part) not in done:
            done[id(part)] = swap(name, part) or part
            if done[id(part)] is part:
                for key, child in list(part._modules.items()):
                    if child is not None:
                        part._modules[key] = replaced(child, f"{name}.{key}" if name else key)
        return done[id(part)]

    return replaced(module, name)


def _parts(masked: nn.Module) -> dict[str, Masked]:
    found = {name: part for name, part in masked.named_modules() if isinstance(part, Masked)}
    if not found:
        raise InputError(f"{type(masked).__name__} holds no masks: it must come from harvib.wrap.mask")
    return found


def _check(name: str, part: nn.RNNBase) -> None:
    """InputError where a stand-in would not do what this part does."""
    where = name or "the module"
    if type(part) not in _KINDS:
        raise InputError(
            f"{where}: {type(part).__name__} is made from a module of torch; only torch's own can be masked"
        )
    if part._forward_hooks or part._forward_pre_hooks:
        raise InputError(
            f"{where}: has hooks (weight normalisation?), which masking would lose: remove them first"
        )
    if part.proj_size:
        raise InputError(f"{where}: an LSTM with proj_size cannot be masked")


@torch.no_grad()
def _shrunk(linear: nn.Linear, units: Tensor, scale: Tensor, shift: Tensor) -> nn.Linear:
    """A Linear that reads the kept states alone."""
    weight = linear.weight.double()
    small = nn.Linear(len(units), linear.out_features).to(linear.weight)
    small.weight.copy_((weight * scale)[:, units])
    small.bias.copy_(weight @ shift.double() + (0 if linear.bias is None else linear.bias))
    return small.train(linear.training)


@torch.no_grad()
def _compare(masked: nn.Module, small: nn.Module, reader: str, example: Any) -> None:
    """InputError where both models differ, in evaluation."""
    given = example if isinstance(example, tuple) else (example,)
    outputs = []
    for model in (masked, small):
        training = {part: part.training for part in model.modules()}
        try:
            outputs.append(model.eval()(*given))
        except RuntimeError as error:
            if model is masked:
                raise
            first = str(error).partition("\n")[0]
            raise InputError(f"reader {reader!r} is not alone in reading the states: {first}") from error
        finally:
            for part, mode in training.items():
                part.training = mode
    ours, theirs = outputs
    if not isinstance(ours, Tensor):
        raise InputError(f"reader {reader!r}: the model must return one tensor, to be compared")
    difference = float((ours - theirs).abs().max() / ours.abs().max().clamp_min(1))
    if not difference <= _TOLERANCE:
        raise InputError(
            f"reader {reader!r}: without the dropped states the model's output differs by {difference:.1e}; they "
            "are read otherwise than by choice or mean over time: leave the reader out"
        )
