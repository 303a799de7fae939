"""Errors for what a user may get wrong: each names the option or argument, and the fix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import LBFGS
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import Dataset, IterableDataset


def check_count(option: str, value: object) -> None:
    """Raise a ValueError unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{option}={value!r} must be a whole number of at least 1")


def check_choice(option: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise a ValueError unless `value` is one of `choices`."""
    if not any(value is choice or value == choice for choice in choices) or isinstance(value, bool):
        raise ValueError(f"{option}={value!r} must be one of {', '.join(map(repr, choices))}")


def check_flag(option: str, value: object) -> None:
    """Raise a ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{option}={value!r} must be True or False")


def check_clip(value: object) -> None:
    """Raise a ValueError unless `value` is None or a positive finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < math.inf):  # type: ignore[operator]
        raise ValueError(
            f"clip={value!r} must be the largest gradient norm to allow, above 0; None clips nothing"
        )


def check_decay(value: object) -> None:
    """Raise a ValueError unless `value` is None or a number between 0 and 1."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 < value < 1):  # type: ignore[operator]
        raise ValueError(f"ema={value!r} must be a decay between 0 and 1, such as 0.999; None averages nothing")


def check_log(value: object) -> str | tuple[str, ...] | None:
    """Return `value`, None or one path or several, as text.

    Raises:
        ValueError: for anything else, and for a file that is neither .csv nor .jsonl.
    """
    if value is None:
        return None
    paths = [value] if isinstance(value, str | Path) else value
    if not isinstance(paths, list | tuple) or not all(isinstance(each, str | Path) for each in paths):
        raise ValueError(f"log={value!r} must be a path: a file .csv or .jsonl, a folder for TensorBoard, or a list")
    for each in paths:
        if Path(each).suffix not in ("", ".csv", ".jsonl"):
            raise ValueError(f"log={str(each)!r} must end in .csv or .jsonl, or be a folder for TensorBoard")
    return str(value) if isinstance(value, str | Path) else tuple(map(str, paths))


def check_metric(value: object) -> None:
    """Raise a ValueError unless `value` is None, "accuracy" or a function."""
    if not (value is None or value == "accuracy" or callable(value)) or isinstance(value, type):
        raise ValueError(f'metric={value!r} must be None, "accuracy" or a function of (outputs, targets)')


def check_run(
    model: object,
    optimizer: Any,
    loss_fn: object,
    train_loader: object,
    val_loader: object,
    lr_scheduler: object,
    *,
    batch: str,
    lr_step: str,
) -> None:
    """Raise a ValueError for arguments of `TrainingLoop.run` that cannot work, before anything is trained."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}, not a torch.nn.Module")
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            "LBFGS computes the loss several times a step, which the loop does not do: use another optimizer"
        )
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in trained for parameter in model.parameters()):
        raise ValueError("the optimizer has none of the model's parameters: make it from model.parameters()")
    if loss_fn is None and batch != "dict":
        raise ValueError(
            'loss_fn is None: give a function of (outputs, targets); or TrainingLoop(batch="dict"), for '
            "models that return their own loss"
        )
    if loss_fn is not None and not callable(loss_fn):
        raise ValueError(f"loss_fn is a {type(loss_fn).__name__}, not a function of (outputs, targets)")
    for name, loader in (("train_loader", train_loader), ("val_loader", val_loader)):
        if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
            raise ValueError(
                f"{name} is a data set of single samples: give DataLoader({name}, batch_size=...)"
            )
    if isinstance(lr_scheduler, ReduceLROnPlateau) and lr_step != "val_loss":
        raise ValueError(f'ReduceLROnPlateau needs TrainingLoop(lr_step="val_loss"), not lr_step={lr_step!r}')
    if lr_step == "val_loss" and lr_scheduler is not None:
        if val_loader is None:
            raise ValueError('lr_step="val_loss" needs a val_loader')
        if not isinstance(lr_scheduler, ReduceLROnPlateau):
            raise ValueError('lr_step="val_loss" is for ReduceLROnPlateau: use "epoch" or "step"')
