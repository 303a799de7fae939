"""Trainings made of the user's functions: a model, loaders, and everything else by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from ecograph import registry
from ecograph.cost.footprint import Footprint, footprint
from ecograph.loop import Callback, TrainingLoop
from ecograph.loop.first_batch import first_inputs
from ecograph.optimize import optimize
from ecograph.rewrite.passes import GroupPass, Pass
from ecograph.sweeps.problem import Training
from ecograph.sweeps.space import Space, Values, label, plain

#: What is known of a training besides what make_model and make_loaders take, with its default.
KNOWN: dict[str, Any] = {
    "lr": 1e-3,
    "epochs": 10,
    "optimizer": "adamw",
    "momentum": 0.9,
    "weight_decay": 0.0,
    "schedule": "cosine",
    "amp": None,
    "clip": None,
    "passes": (),
    "channels_last": False,
}

SCHEDULES = ("cosine", "onecycle", "linear", "none")


@dataclass(frozen=True)
class Judge:
    """What says how well a model does, and when it is done.

    Attributes:
        loss_fn: of (outputs, targets).
        metric: as ``TrainingLoop`` takes it.
        stop: likewise.
        callbacks: likewise.
    """

    loss_fn: Callable[..., Any]
    metric: Any
    stop: str | None
    callbacks: Sequence[Callback]


def active(name: str, values: Values) -> bool:
    """Whether a parameter counts: ``lr@sgd`` does where the optimizer is sgd."""
    condition = name.partition("@")[2]
    return not condition or label(values.get("optimizer", KNOWN["optimizer"])) == condition


@dataclass(frozen=True)
class Functions:
    """A problem made of functions.

    Attributes:
        make_model: given the values of the space that it has a parameter for.
        make_loaders: likewise; returns the loaders for training and validation.
        space: what varies.
        loss_fn: of (outputs, targets).
        metric: as ``TrainingLoop`` takes it.
        fixed: values of what does not vary.
        device: that the model is moved to.
        grid: see ``footprint``.
        price: see ``footprint``.
        currency: see ``footprint``.
    """

    make_model: Callable[..., nn.Module]
    make_loaders: Callable[..., Any]
    space: Space
    loss_fn: Callable[..., Any]
    metric: Any = "accuracy"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    grid: float | None = None
    price: float | None = None
    currency: str = ""

    batch_name = "batch_size"
    lr_name = "lr"
    known: ClassVar[Mapping[str, Any]] = KNOWN

    def __post_init__(self) -> None:
        """Checks that somebody takes every value."""
        takes = {**self.known, **parameters(self.make_model), **parameters(self.make_loaders)}
        for name in (*map(plain, self.space.parameters), *self.fixed):
            if name not in takes:
                raise ValueError(
                    f"space[{name!r}]: neither make_model nor make_loaders has a parameter {name!r}, and it is none of "
                    f"{', '.join(self.known)}: add it to one of the functions, or leave it out"
                )

    @property
    def start(self) -> Values | None:
        """The setting of the defaults, where it is in the space."""
        values = self.all_values({})
        return {plain(name): values[plain(name)] for name in self.space.parameters if plain(name) in values} or None

    def training(self, values: Values, *, seed: int, stop: str | None, callbacks: Sequence[Callback]) -> Training:
        """Makes a training; see ``Problem``."""
        found = self.all_values(values)
        torch.manual_seed(seed)
        loaders = self.make_loaders(**given(self.make_loaders, found))
        if not isinstance(loaders, (tuple, list)) or len(loaders) != 2:
            raise ValueError(f"make_loaders returned a {type(loaders).__name__}: return (train_loader, val_loader)")
        train, val = loaders
        model = self.model(found).to(self.device)
        if found["channels_last"]:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        passes = _passes(found["passes"])
        rewriting = [each for each in passes if isinstance(each, (Pass, GroupPass))]
        if rewriting:
            optimize(model, example_inputs=first_inputs(train), passes=rewriting, amp=found["amp"])
        optimizer = _optimizer(found, model)
        schedule = _schedule(found["schedule"], optimizer, found["epochs"], len(train))
        judge = self.judge(model, stop, callbacks)
        loop = TrainingLoop(
            epochs=found["epochs"],
            passes=[each for each in passes if callable(getattr(each, "insert", None))],
            amp=found["amp"],
            clip=found["clip"],
            metric=judge.metric,
            lr_step="step",
            stop=judge.stop,
            callbacks=judge.callbacks,
            progress=False,
        )
        return Training(loop, (model, optimizer, judge.loss_fn, train, val, schedule))

    def model(self, found: Values) -> nn.Module:
        """Makes the model of a setting."""
        return self.make_model(**given(self.make_model, found))

    def judge(self, model: nn.Module, stop: str | None, callbacks: Sequence[Callback]) -> Judge:
        """Returns what says how well a model does, and when it is done."""
        return Judge(self.loss_fn, self.metric, stop, callbacks)

    def definition(self) -> dict[str, Any]:
        """See ``Problem``."""
        fixed = {name: label(value) for name, value in self.fixed.items()}
        return {"space": self.space.to_json(), "fixed": fixed}

    def footprint(self, joules: float) -> Footprint:
        """See ``Problem``."""
        return footprint(joules, grid=self.grid, price=self.price, currency=self.currency)

    def all_values(self, values: Values) -> Values:
        """Returns a setting with all that does not vary."""
        defaults = {**self.known, **_defaults(self.make_model), **_defaults(self.make_loaders)}
        return {**defaults, **self.fixed, **values}


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns what a function can be given by name."""
    return {
        name: each
        for name, each in inspect.signature(function).parameters.items()
        if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
    }


def _defaults(function: Callable[..., Any]) -> Values:
    return {name: each.default for name, each in parameters(function).items() if each.default is not each.empty}


def given(function: Callable[..., Any], values: Values) -> Values:
    """Returns those of some values that a function can be given."""
    return {name: values[name] for name in parameters(function) if name in values}


def _passes(given: Any) -> list[Any]:
    """Returns the passes that a name, a pass, or several of them stand for."""
    if given is None or given == "none":
        return []
    several = given if isinstance(given, (tuple, list)) else [given]
    return [registry.find(each)() if isinstance(each, str) else each for each in several]


def _optimizer(values: Values, model: nn.Module) -> Optimizer:
    made = values["optimizer"]
    if isinstance(made, str):
        classes = {name.lower(): each for name, each in vars(torch.optim).items() if isinstance(each, type)}
        if made.lower() not in classes:
            raise ValueError(f"optimizer {made!r}: give the name of a class of torch.optim, or the class")
        made = classes[made.lower()]
    takes = inspect.signature(made).parameters
    options = {name: values[name] for name in ("lr", "momentum", "weight_decay") if name in takes}
    optimizer: Optimizer = made([p for p in model.parameters() if p.requires_grad], **options)
    return optimizer


def _schedule(name: str | None, optimizer: Optimizer, epochs: int, steps: int) -> Any:
    """Returns a schedule that is stretched over all steps."""
    total = epochs * steps
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=total)
    if name == "onecycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=total)
    if name == "linear":
        return lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=total)
    if name in (None, "none"):
        return None
    raise ValueError(f"schedule {name!r}: give one of {', '.join(SCHEDULES)}")
