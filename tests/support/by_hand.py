"""A training of several ranks, written out by hand in one process: what a distributed loop is compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: (inputs, targets)
Batch = tuple[Tensor, Tensor]
#: What each rank computes for one optimizer step: one batch, or several.
Step = Sequence[Sequence[Batch]]


def network(seed: int = 0, *, norm: bool = True) -> nn.Sequential:
    """A small model in double precision, with parameters that have no even split over two ranks."""
    torch.manual_seed(seed)
    norms = [nn.BatchNorm1d(9)] if norm else []
    return nn.Sequential(nn.Linear(6, 9), *norms, nn.Tanh(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def samples(count: int, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (count,), generator=generator)


def cards(data: Batch, batch: int, *, ranks: int = 2, order: Sequence[int] | None = None) -> list[Step]:
    """An epoch of samples that are dealt out like cards, one batch per rank and step."""
    indices = list(range(len(data[0]))) if order is None else list(order)
    hands = [indices[rank::ranks] for rank in range(ranks)]
    steps = range(0, len(hands[0]), batch)
    return [[[_chosen(data, hand[at : at + batch])] for hand in hands] for at in steps]


def _chosen(data: Batch, indices: Sequence[int]) -> Batch:
    return data[0][list(indices)], data[1][list(indices)]


@dataclass
class Outcome:
    """What a training came to.

    Attributes:
        model: at the end.
        average: the moving average, if there is one.
        train_loss: per epoch, the mean over the samples of all ranks.
        val_loss: per epoch, of what is evaluated.
        val_accuracy: the same.
    """

    model: nn.Module
    average: nn.Module | None
    train_loss: list[float]
    val_loss: list[float]
    val_accuracy: list[float]


def by_hand(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: Sequence[Sequence[Step]],
    *,
    val: Batch | None = None,
    clip: float | None = None,
    ema: float | None = None,
    amp: bool = False,
    skip: Callable[[int], bool] = lambda epoch: False,
) -> Outcome:
    """Trains a model on what all ranks have.

    The gradient of a step is the mean over the ranks; a rank's batches of a step are averaged. The statistics of
    BatchNorm are those of rank 0.
    """
    found = Outcome(model, None, [], [], [])
    parameters = [each for each in model.parameters() if each.requires_grad]
    for epoch, steps in enumerate(epochs):
        model.train()
        losses: list[tuple[float, int]] = []
        for step in [] if skip(epoch) else steps:
            total = [torch.zeros_like(each) for each in parameters]
            before = [each.clone() for each in model.buffers()]
            kept = before
            for rank, batches in enumerate(step):
                _set(model.buffers(), before)
                for x, y in batches:
                    with torch.autocast("cpu", dtype=torch.bfloat16) if amp else nullcontext():
                        loss = F.cross_entropy(model(x), y)
                    share = len(batches) * len(step)
                    for sum_, each in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                        sum_.add_(each / share)
                    losses.append((loss.item(), len(y)))
                if rank == 0:
                    kept = [each.clone() for each in model.buffers()]
            _set(model.buffers(), kept)
            norm = torch.cat([each.flatten() for each in total]).norm()
            scale = min(1.0, clip / (norm.item() + 1e-6)) if clip is not None else 1.0
            for parameter, each in zip(parameters, total, strict=True):
                parameter.grad = each * scale
            optimizer.step()
            if ema is not None:
                found.average = _averaged(found.average, model, ema)
        samples = sum(count for _, count in losses)
        found.train_loss.append(sum(loss * count for loss, count in losses) / samples if losses else float("nan"))
        if val is not None:
            judged = found.average if found.average is not None else model
            with torch.no_grad():
                outputs: Any = judged.eval()(val[0])
            found.val_loss.append(F.cross_entropy(outputs, val[1]).item())
            found.val_accuracy.append((outputs.argmax(1) == val[1]).double().mean().item())
    return found


@torch.no_grad()
def _averaged(average: nn.Module | None, model: nn.Module, decay: float) -> nn.Module:
    if average is None:
        return copy.deepcopy(model)
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        old.copy_(decay * old + (1 - decay) * new)  # torch rounds the count of batches down, too
    return average


@torch.no_grad()
def _set(tensors: Any, values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
