"""``ecograph demo --backend ort``: the demo's training in PyTorch and in ONNX Runtime, side by side."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from ecograph.tools import demo_arms
from ecograph.tools.demo_arms import SPARSE_BACKWARD, Arm, Run
from ecograph.tools.jobs.job import Named

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from ecograph.tools.jobs import Planned

#: Of all arms.
OPTIMIZER = Named("adamw", {"lr": 3e-3, "weight_decay": 1e-2})

BACKENDS = {"torch": "PyTorch", "ort": "ONNX Runtime"}
#: Optimizer steps in an epoch of the digits, for the progress bar.
STEPS = 16


def arms(model: str, *, epochs: int) -> list[Arm]:
    """Returns what is trained: each in PyTorch, then in ONNX Runtime, dense and with the demo's sparse backward."""
    found = []
    for name, passes in (("dense", ()), ("sparse backward", (SPARSE_BACKWARD,))):
        job = replace(demo_arms.job(model, epochs=epochs, passes=passes), optimizer=OPTIMIZER)
        found += [Arm(f"{backend} {name}", f"{title}, {name}", job, 0) for backend, title in BACKENDS.items()]
    return found


def train(arm: Arm, *, seed: int, position: int, tick: Callable[[], None]) -> Run:
    """Trains one arm; arms with the same seed see the same images in the same order, at the same learning rates."""
    if arm.name.startswith("torch"):
        return demo_arms.train(arm, seed=seed, position=position, tick=tick)
    return _train_in_ort(demo_arms.begin(arm, seed=seed), arm, seed, position, tick)


def _train_in_ort(planned: Planned, arm: Arm, seed: int, position: int, tick: Callable[[], None]) -> Run:
    import torch

    from ecograph.export import OrtTrainer, export_onnx_training

    ready, epochs = planned.ready, arm.epochs
    random = torch.get_rng_state()  # as it is where PyTorch begins: of the order of images, and of how they are moved
    x = torch.zeros(2, 1, 8, 8)
    rates = _learning_rates(ready, epochs * len(ready.train_loader))

    def rate_of(step: int) -> float:
        tick()
        return rates[step]

    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx_training(
            ready.model, (x,), loss="cross_entropy", optimizer=ready.optimizer, path=Path(folder) / "exported"
        )
        trainer = OrtTrainer(path)
        torch.set_rng_state(random)
        wall, cpu = time.perf_counter(), time.process_time()
        history = trainer.fit(ready.train_loader, epochs=epochs, lr=rate_of, progress=False)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        trainer.to_torch(ready.model)
    # Tested in PyTorch, like the other arms: the weights made the way back.
    return Run(arm.name, seed, position, demo_arms.test(planned), cpu, wall, history[-1].train_loss)


def _learning_rates(ready: Any, steps: int) -> list[float]:
    """Returns the learning rate of each step of the PyTorch schedule, which is used up."""
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer steps before the schedule does
        for step in range(steps):
            rates.append(float(ready.optimizer.param_groups[0]["lr"]))
            if step + 1 < steps:
                ready.lr_scheduler.step()
    return rates


@dataclass(frozen=True)
class Report:
    """The outcome: prints as a table and a sentence.

    Attributes:
        runs: of all arms and seeds.
        arms: in order.
        epochs: of each.
        seeds: how many.
        seconds: in all.
    """

    runs: list[Run]
    arms: list[Arm]
    epochs: int
    seeds: int
    seconds: float

    def _of(self, arm: str) -> list[Run]:
        return [run for run in self.runs if run.arm == arm]

    def accuracy(self, arm: str) -> float:
        """Returns the mean over the seeds."""
        return mean(run.accuracy for run in self._of(arm))

    def apart(self) -> dict[str, float]:
        """Returns by kind of training how far ONNX Runtime's accuracy is from PyTorch's, in points."""
        kinds = [arm.name.removeprefix("ort ") for arm in self.arms if arm.name.startswith("ort ")]
        return {kind: 100 * (self.accuracy(f"ort {kind}") - self.accuracy(f"torch {kind}")) for kind in kinds}

    def to_dict(self) -> dict[str, Any]:
        """Returns every figure as JSON types."""
        return {
            "epochs": self.epochs,
            "optimizer": {"name": OPTIMIZER.name, **OPTIMIZER.options},
            "arms": [
                {
                    "name": arm.name,
                    "accuracy_mean": self.accuracy(arm.name),
                    "cpu_seconds_mean": mean(run.cpu_seconds for run in self._of(arm.name)),
                    "seconds_source": "measured:process CPU time and wall time of the training",
                    "runs": [vars(run) for run in self._of(arm.name)],
                }
                for arm in self.arms
            ],
            "points_apart": self.apart(),
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields the table and what it says."""
        from rich import box
        from rich.table import Table

        plural = "s" if self.seeds > 1 else ""
        table = Table(
            title=f"Handwritten digits, small ResNet, {self.epochs} epochs: mean over {self.seeds} seed{plural}",
            box=box.SIMPLE_HEAD,
        )
        for name in ("arm", "test accuracy", "last epoch's loss", "CPU time"):
            table.add_column(name, justify="left" if name == "arm" else "right")
        for arm in self.arms:
            runs = self._of(arm.name)
            accuracies = [100 * run.accuracy for run in runs]
            spread = f" ± {stdev(accuracies):.2f}" if len(runs) > 1 else ""
            loss = mean(run.train_loss or 0.0 for run in runs)
            cpu = mean(run.cpu_seconds for run in runs)
            table.add_row(arm.title, f"{mean(accuracies):.2f}{spread} %", f"{loss:.4f}", f"{cpu:.1f} s")
        yield table
        yield "all arms: AdamW, the same images in the same order"
        yield "CPU time: measured, of the process during training; exporting is not in it"
        for kind, points in self.apart().items():
            yield f"{kind}: ONNX Runtime's accuracy is {points:+.2f} points from PyTorch's"
        yield f"in all: {self.seconds:.0f} s"
