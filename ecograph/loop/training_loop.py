"""The front door: options in, the text of a training loop out, and a way to run that very text."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ecograph.loop import checks
from ecograph.loop.build import build, head
from ecograph.loop.callbacks import Callback, check_callbacks
from ecograph.loop.data import Batch
from ecograph.loop.history import History
from ecograph.loop.loop_pass import LoopPass, check_passes
from ecograph.loop.program import Program

if TYPE_CHECKING:
    from ecograph.cost.estimate import PlannedRun

_numbers = itertools.count(1)


@dataclass(frozen=True)
class TrainingLoop:
    """A training loop, as plain Python text that can be read, run and checked in.

    Only what was asked for is in the text: no `autocast` without `amp`, no clipping without `clip`.

    Args:
        epochs: how often to go through the training data.
        passes: loop passes, which put their statements into the text in this order.
        amp: forward passes in "bf16" or "fp16" (with a GradScaler). None: in the precision of the weights.
        clip: the largest norm of the gradient; larger ones are scaled down to it.
        accumulate: batches per optimizer step. Their losses are averaged; the last step of an epoch takes
            what is left, however many. That many batches are held in memory, as the loader gave them.
        metric: what to average over the samples beside the loss: "accuracy", or a function of (outputs,
            targets) that returns one number for a batch. In the history: `train_<name>` and `val_<name>`.
        lr_step: when the learning-rate scheduler advances: after each "epoch"; after each optimizer "step";
            or by "val_loss", after each epoch, given the validation loss, for ReduceLROnPlateau.
        batch: what a batch is, and how the model is called:
            "pair": (inputs, targets), `model(inputs)`;
            "args": (inputs, targets), where inputs are a tuple, `model(*inputs)`;
            "kwargs": (inputs, targets), where inputs are a dict, `model(**inputs)`;
            "dict": one dict, `model(**batch)`. Without a loss_fn the model returns the loss, as those of
            Hugging Face do; or else it is `loss_fn(outputs, batch)`.
        distributed: train in several processes, which `torchrun` starts, each on its share of the data. "ddp": each
            has the whole model, in DistributedDataParallel. "fsdp": each has a part of every weight, by `fully_shard`.
            See `run` for what changes.
        compile: compile the model with torch.compile, in place.
        ema: the decay of an exponential moving average of the weights, such as 0.999. The average is what is
            evaluated, and what the model has at the end.
        val_every: evaluate after every so many epochs, and after the last.
        stop: end training after the epoch in which a value reaches its target: "val_accuracy >= 0.98".
        checkpoint: a folder for the checkpoints of this run: one after each epoch, the last two are kept. The weights
            alone: `model.load_state_dict(torch.load(file, weights_only=True)["state"]["model"])`.
        checkpoint_every: one after every so many optimizer steps, too.
        log: where the history is written after each epoch: a file .csv or .jsonl, or a folder for TensorBoard;
            or a list of such.
        callbacks: objects that are told of each epoch and step; see `Callback`.
        progress: show a progress bar, on a terminal, when training takes more than two seconds.
        annotate: say in a comment which pass put in which statements.

    Attributes:
        source: the text. Its function `train` takes what `run` takes.
        program: the tree it was written from, which knows who made which statement.

    Raises:
        ValueError: for an option that cannot work, and for something in `passes` that is not a loop pass.
    """

    epochs: int
    _: KW_ONLY
    passes: Sequence[LoopPass] = ()
    amp: Literal["bf16", "fp16"] | None = None
    clip: float | None = None
    accumulate: int = 1
    metric: Literal["accuracy"] | Callable[..., Any] | None = None
    lr_step: Literal["epoch", "step", "val_loss"] = "epoch"
    batch: Batch = "pair"
    distributed: Literal["ddp", "fsdp"] | None = None
    compile: bool = False
    ema: float | None = None
    val_every: int = 1
    stop: str | None = None
    checkpoint: str | Path | None = None
    checkpoint_every: int | None = None
    log: str | Path | Sequence[str | Path] | None = None
    callbacks: Sequence[Callback] = ()
    progress: bool = True
    annotate: bool = False
    source: str = field(init=False, repr=False, compare=False)
    program: Program = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the options and write the text."""
        checks.check_count("epochs", self.epochs)
        checks.check_choice("amp", self.amp, (None, "bf16", "fp16"))
        checks.check_clip(self.clip)
        checks.check_count("accumulate", self.accumulate)
        checks.check_metric(self.metric)
        checks.check_choice("lr_step", self.lr_step, ("epoch", "step", "val_loss"))
        checks.check_choice("batch", self.batch, ("pair", "args", "kwargs", "dict"))
        checks.check_choice("distributed", self.distributed, (None, "ddp", "fsdp"))
        checks.check_flag("compile", self.compile)
        checks.check_decay(self.ema)
        checks.check_count("val_every", self.val_every)
        if self.checkpoint_every is not None:
            checks.check_count("checkpoint_every", self.checkpoint_every)
            if self.checkpoint is None:
                raise ValueError("checkpoint_every needs a folder: give checkpoint=")
        checks.check_flag("progress", self.progress)
        checks.check_flag("annotate", self.annotate)
        object.__setattr__(self, "passes", check_passes(self.passes))
        object.__setattr__(self, "callbacks", check_callbacks(self.callbacks))
        object.__setattr__(self, "log", checks.check_log(self.log))
        program = build(self)
        object.__setattr__(self, "program", program)
        object.__setattr__(self, "source", program.source(head(self)))

    def run(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: Callable[..., Any] | None,
        train_loader: Iterable[Any],
        val_loader: Iterable[Any] | None = None,
        lr_scheduler: LRScheduler | None = None,
        *,
        resume: bool = False,
    ) -> History:
        """Train `model` in place, by running `source` as it stands, and return the history.

        A traceback, a debugger and a profiler show the lines of `source`. The model is left in evaluation
        mode if there is a val_loader, in training mode otherwise.

        Args:
            model: on the device it shall be trained on; batches are moved there.
            optimizer: holds the model's parameters.
            loss_fn: from outputs and targets to the mean loss of a batch; see `batch` for doing without.
            train_loader: the batches of an epoch: a DataLoader, a list, or anything else that can be iterated
                over once per epoch. It need not have a length.
            val_loader: data to evaluate the model on after each epoch.
            lr_scheduler: is advanced as `lr_step` says.
            resume: go on from the last checkpoint, if there is one; model, optimizer and all else as they were
                first made. The rest of the run is that of one that was never stopped, bit for bit.

        Raises:
            CheckpointError: if there are checkpoints and `resume` is False, or they are of another run.
            Interrupted: after Ctrl-C or SIGTERM, when a checkpoint was written.
            ValueError: for arguments that cannot work together, an empty loader, and batches that are not
                what `batch` says.
            NonFiniteLossError: at the end of an epoch whose mean training loss is nan or infinite.
        """
        checks.check_run(
            model,
            optimizer,
            loss_fn,
            train_loader,
            val_loader,
            lr_scheduler,
            batch=self.batch,
            lr_step=self.lr_step,
        )
        arguments = dict(self.program.arguments)
        if self.checkpoint is not None:
            arguments["resume"] = resume
        elif resume:
            raise ValueError("resume=True needs checkpoints to go on from: give TrainingLoop(checkpoint=FOLDER)")
        return self.train(model, optimizer, loss_fn, train_loader, val_loader, lr_scheduler, **arguments)

    def estimate(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: Callable[..., Any] | None,
        train_loader: Iterable[Any],
        *,
        device: str = "auto",
        batches_per_epoch: int | None = None,
        grid: float | None = None,
        price: float | None = None,
        currency: str = "",
    ) -> PlannedRun:
        """Estimate what `run` will take with these arguments, before it is run: time, energy, CO2, money.

        One step is recorded without data and priced on a device, at each rate that passes on the model will have;
        skipped epochs are left out. Nothing is computed, and all is left as it was. To read data, to evaluate and to
        write checkpoints is not in the figures; with `distributed`, they are of one process.

        Args:
            model: as for `run`, plain or optimized.
            optimizer: likewise.
            loss_fn: likewise.
            train_loader: likewise; its first batch is looked at.
            device: for which device, by a name that `ecograph inspect --device` takes; "auto": the one it is on.
            batches_per_epoch: for a loader without a length.
            grid: grams of CO2 per kWh where the machine stands. None: the average of the world.
            price: of a kWh. None: no price.
            currency: of the price, for the text.

        Raises:
            ValueError: for a device that there is not, batches that are not what `batch` says, a loader without a
                length, and a number that makes no sense.
        """
        from ecograph.loop.planned import plan_training  # the cost model is not needed to train

        return plan_training(
            self,
            model,
            optimizer,
            loss_fn,
            train_loader,
            device=device,
            batches_per_epoch=batches_per_epoch,
            grid=grid,
            price=price,
            currency=currency,
        )

    @cached_property
    def train(self) -> Callable[..., History]:
        """The function `train` of the text, compiled under a file name of its own, `<ecograph loop 3>`."""
        number = next(_numbers)
        filename = f"<ecograph loop {number}>"
        linecache.cache[filename] = (len(self.source), None, self.source.splitlines(keepends=True), filename)
        names: dict[str, Any] = {"__name__": f"ecograph_loop_{number}"}
        exec(compile(self.source, filename, "exec", dont_inherit=True), names)
        train: Callable[..., History] = names["train"]
        return train

    def eject(self, path: str | Path) -> None:
        """Write the text to a file, to be a program of its own: imported for `train`, or run as a script.

        `python FILE --help` says how a model and data are named there. ecograph does not come back to the file: it is
        yours to change.
        """
        Path(path).write_text(self.source, encoding="utf-8")
