"""A whole training, as names and numbers: what a TOML file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ecograph.cost.footprint import Footprint, footprint
from ecograph.tools.data.loaders import Batching
from ecograph.tools.training import Setup
from ecograph.tools.training.kinds import for_model
from ecograph.tools.training.schedules import default_lr_step


@dataclass(frozen=True)
class Model:
    """Table ``[model]``; see ``Setup``."""

    spec: str
    channels_last: bool = False
    skip: Sequence[str] = ()
    weights: str | None = None
    freeze: Sequence[str] = ()


@dataclass(frozen=True)
class DataSet:
    """Table ``[data]``; see ``Batching``."""

    spec: str
    batch_size: int | None = None
    limit: int | None = None
    workers: int = 0
    drop_last: bool = False


@dataclass(frozen=True)
class Top:
    """The keys before the first table.

    Attributes:
        seed: see ``Setup``.
        device: see ``Setup``.
        loss: see ``Setup``.
        output: the folder of this run, for checkpoints, weights, history and report. None: nothing is written.
    """

    seed: int = 0
    device: str = "auto"
    loss: str | None = None
    output: str | None = None


@dataclass(frozen=True)
class Named:
    """Tables ``[optimizer]`` and ``[schedule]``: something of torch, and its options by torch's names."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Energy:
    """Table ``[energy]``: what the energy of a training comes to, in its report and before it; see ``footprint``."""

    grid: float | None = None
    price: float | None = None
    currency: str = ""

    def footprint(self, joules: float) -> Footprint:
        """Returns what joules come to."""
        return footprint(joules, grid=self.grid, price=self.price, currency=self.currency)


#: Where the files of a run are in its folder.
CHECKPOINTS = "checkpoints"
HISTORY = "history.csv"


@dataclass(frozen=True)
class Job:
    """A whole training.

    Attributes:
        top: seed, device, loss and output folder.
        model: what is trained.
        data: on what.
        optimizer: by what.
        schedule: of the learning rate.
        passes: all of them, in their order.
        loop: options of ``TrainingLoop``, other than passes.
        energy: what energy comes to.
        table: what was written, with what the command line changed.
    """

    top: Top
    model: Model
    data: DataSet
    optimizer: Named = Named("adamw")
    schedule: Named = Named("none")
    passes: tuple[Any, ...] = ()
    loop: Mapping[str, Any] = field(default_factory=dict)
    energy: Energy = Energy()
    table: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def folder(self) -> Path | None:
        """The output folder."""
        return None if self.top.output is None else Path(self.top.output)

    @property
    def loop_options(self) -> dict[str, Any]:
        """The options of the loop, with those that follow from the rest of the job."""
        options = {"lr_step": default_lr_step(self.schedule.name), **self.loop}
        if self.folder is not None:
            options = {
                "checkpoint": (self.folder / CHECKPOINTS).as_posix(),
                "log": (self.folder / HISTORY).as_posix(),
                **options,
            }
        return options

    @property
    def setup(self) -> Setup:
        """What the loop is to be called with."""
        data = self.data
        return Setup(
            model=self.model.spec,
            data=data.spec,
            channels_last=self.model.channels_last,
            skip=tuple(self.model.skip),
            weights=self.model.weights,
            freeze=tuple(self.model.freeze),
            batching=Batching(data.batch_size, data.limit, data.workers, data.drop_last),
            loss=self.top.loss,
            optimizer=self.optimizer.name,
            optimizer_options=self.optimizer.options,
            schedule=self.schedule.name,
            schedule_options=self.schedule.options,
            passes=for_model(self.passes),
            seed=self.top.seed,
            device=self.top.device,
        )

    def flat(self) -> dict[str, Any]:
        """Returns every setting by its dotted name, defaults included: to compare jobs."""
        found: dict[str, Any] = {each.name: getattr(self.top, each.name) for each in fields(self.top)}
        for table in ("model", "data"):
            part = getattr(self, table)
            found |= {f"{table}.{each.name}": getattr(part, each.name) for each in fields(part)}
        for table in ("optimizer", "schedule"):
            part = getattr(self, table)
            found |= {f"{table}.{name}": value for name, value in {"name": part.name, **part.options}.items()}
        for each in self.passes:
            found |= {f"passes.{each.name}.{option.name}": getattr(each, option.name) for option in fields(each)}
        return found | {f"loop.{name}": value for name, value in self.loop_options.items()}
