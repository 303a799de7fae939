"""ONNX Runtime training next to PyTorch: are the loss curves the same, and what does the sparse backward save there?

    python benchmarks/ort_training.py                     # everything: about 10 minutes on 2 CPU cores
    python benchmarks/ort_training.py --curves            # loss curves only
    python benchmarks/ort_training.py --steps             # step times only
    python benchmarks/ort_training.py --curves --only mlp gpt --json out.json

Curves: the same weights and the same batches, trained for 50 steps by PyTorch and by ONNX Runtime with the same
optimizer: AdamW or plain SGD. Dense, and with the sparse backward at a constant drop of 0.8. "Apart" is the largest
relative difference of the losses in any step. Where it is not small, float32 may be the reason and not the export: so
PyTorch itself is run a third time from weights that differ by one part in ten million, and how far that comes apart
stands beside it.

Steps: forward, backward and SGD, on the same batch in turn in one process; medians.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from command import parser, write_json
from models import LanguageModel, TransformerBlock, resnet
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from timing import interleaved
from torch import Tensor, nn

import ecograph
from ecograph.export import OrtTrainer
from ecograph.passes import SparseBackward

STEPS, DROP = 50, 0.8
TARGET_APART, TARGET_SHARE = 1e-3, 0.60


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al., 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int = 4) -> None:
        super().__init__()
        hidden = inputs * expand
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.adds else y


class TinyViT(nn.Module):
    """Images ``(N, 3, 32, 32)`` as 64 patches, a class token, pre-norm blocks."""

    def __init__(self, width: int = 192, heads: int = 3, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 65, width) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.token.expand(x.shape[0], -1, -1), patches), 1) + self.places
        scores: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return scores


def lenet() -> nn.Module:
    """LeNet-5 (LeCun et al., 1998), with average pooling and tanh as there, and wider."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(16, 32, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(800, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(), nn.Linear(84, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    """Three layers, GELU."""
    return nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 512), nn.GELU(), nn.Linear(512, 10))


def mobile_blocks() -> nn.Module:
    """A stem and four blocks of MobileNetV2."""
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6(),
        InvertedResidual(24, 24, 1), InvertedResidual(24, 48, 2), InvertedResidual(48, 48, 1),
        InvertedResidual(48, 64, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A model to train, with batches.

    Attributes:
        build: makes the model.
        batch: makes a batch.
        loss: name of the loss in the export.
        lr: learning rate of SGD; None for AdamW at 1e-3.
    """

    build: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    loss: str = "cross_entropy"
    lr: float | None = None


def images(batch: int = 16) -> Batch:
    """Random images whose label shows: a patch is brighter."""
    labels = torch.randint(10, (batch,))
    x = torch.randn(batch, 3, 32, 32)
    for i, label in enumerate(labels.tolist()):
        x[i, :, 3 * label : 3 * label + 3] += 1
    return x, labels


def vectors() -> Batch:
    """Random vectors; the label is the largest of the first ten sums."""
    x = torch.randn(64, 256)
    return x, x.view(64, 16, 16).sum(2)[:, :10].argmax(1)


def text() -> Batch:
    """Sequences that count up, modulo 64."""
    start, step = torch.randint(64, (8, 1)), torch.randint(1, 4, (8, 1))
    tokens = (start + step * torch.arange(33)) % 64
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


TASKS: dict[str, Task] = {
    "mlp": Task(mlp, vectors),
    "lenet": Task(lenet, images),
    "resnet18": Task(lambda: resnet((2, 2, 2, 2), False, True), lambda: images(8), lr=0.01),
    "mobilenetv2": Task(mobile_blocks, images, lr=0.01),
    "vit-tiny": Task(TinyViT, images),
    "gpt": Task(lambda: LanguageModel(128, 4, 2, 32, vocabulary=64), text, loss="token_cross_entropy"),
}


def loss_of(task: Task, output: Tensor, targets: Tensor) -> Tensor:
    """Returns PyTorch's loss."""
    if task.loss == "token_cross_entropy":
        return F.cross_entropy(output.flatten(0, -2), targets.flatten())
    return F.cross_entropy(output, targets)


def make_optimizer(task: Task, model: nn.Module) -> torch.optim.Optimizer:
    """Returns the task's optimizer."""
    if task.lr is None:
        return torch.optim.AdamW(model.parameters(), lr=1e-3)
    return torch.optim.SGD(model.parameters(), lr=task.lr)


def sparse(model: nn.Module, x: Tensor, drop: float) -> nn.Module:
    """Returns the model with every eligible layer sparse."""
    return ecograph.optimize(
        model, example_inputs=(x,), passes=[SparseBackward(drop, schedule="constant", when="always")]
    )


def torch_curve(task: Task, model: nn.Module, batches: list[Batch]) -> list[float]:
    """Returns the losses of training in PyTorch."""
    model.train()
    optimizer, losses = make_optimizer(task, model), []
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_of(task, model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def apart(ours: list[float], theirs: list[float]) -> float:
    """Returns the largest relative difference in any step."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def curve_rows(names: list[str], steps: int, advance: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Yields how far the curves are apart, for each task, dense and sparse."""
    for name in names:
        task = TASKS[name]
        for drop in (0.0, DROP):
            torch.manual_seed(0)
            model = task.build()
            batches = [task.batch() for _ in range(steps)]
            if drop:
                sparse(model, batches[0][0], drop)
            nudged = copy.deepcopy(model)
            with torch.no_grad():
                for parameter in nudged.parameters():
                    parameter.mul_(1 + 1e-7 * torch.randn_like(parameter))
            with tempfile.TemporaryDirectory() as folder:
                path = ecograph.export_onnx_training(
                    model, (batches[0][0],), loss=task.loss, optimizer=make_optimizer(task, model),
                    path=Path(folder) / "exported",
                )  # fmt: skip
                trainer = OrtTrainer(path)
                ours = [trainer.train_step(x, targets=y) for x, y in batches]
                back = trainer.to_torch(ecograph.restore(copy.deepcopy(model)) if drop else copy.deepcopy(model)).eval()
                x, y = batches[0]
                _, output = trainer.eval_step(x, targets=y)
                with torch.no_grad():
                    round_trip = (back(x) - torch.from_numpy(output)).abs().max().item()
            theirs = torch_curve(task, model, batches)
            yield {
                "task": name, "drop": drop, "steps": steps, "sites": len(trainer.manifest.sites),
                "optimizer": trainer.manifest.optimizer["name"], "first_loss": theirs[0], "last_loss": theirs[-1],
                "apart": apart(ours, theirs), "float32_apart": apart(torch_curve(task, nudged, batches), theirs),
                "round_trip": round_trip, "ort": ours, "torch": theirs,
            }  # fmt: skip
            advance()


def step_rows(rounds: int, advance: Callable[[], None]) -> Iterator[dict[str, Any]]:
    """Yields the times of ResNet-18's steps: PyTorch and ONNX Runtime, dense and sparse."""
    torch.manual_seed(0)
    x, y = torch.randn(32, 3, 32, 32), torch.randint(100, (32,))
    dense = resnet((2, 2, 2, 2), False, True)
    task = Task(lambda: dense, lambda: (x, y), lr=1e-3)
    models = {"dense": dense, "sparse": sparse(copy.deepcopy(dense), x, DROP)}
    runs: dict[str, Callable[[], Callable[[], Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models.items():
            optimizer = make_optimizer(task, model.train())

            def torch_step(model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()

            path = ecograph.export_onnx_training(model, (x,), optimizer=optimizer, path=Path(folder) / name)
            trainer = OrtTrainer(path)

            def ort_step(trainer: OrtTrainer = trainer) -> None:
                trainer.train_step(x, targets=y)

            runs[f"torch {name}"] = lambda step=torch_step: step  # type: ignore[misc]
            runs[f"ort {name}"] = lambda step=ort_step: step  # type: ignore[misc]
        times = interleaved(runs, rounds)
    advance()
    yield {
        "model": "resnet18, CIFAR stem, batch 32", "drop": DROP, "sites": len(trainer.manifest.sites),
        "milliseconds": times, "ort_sparse_share": times["ort sparse"] / times["ort dense"],
        "torch_sparse_share": times["torch sparse"] / times["torch dense"],
        "ort_dense_share_of_torch": times["ort dense"] / times["torch dense"],
    }  # fmt: skip


def curve_table(rows: list[dict[str, Any]]) -> Table:
    """Returns the curves as a table."""
    table = Table(title=f"{STEPS} steps, ONNX Runtime next to PyTorch: largest relative difference of the losses")
    for column in ("model", "optimizer", "drop", "sites", "loss", "apart", "float32 alone", "round trip"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        style = "red" if row["apart"] >= TARGET_APART else None
        table.add_row(
            row["task"], row["optimizer"], f"{row['drop']:g}", str(row["sites"]),
            f"{row['first_loss']:.3f} → {row['last_loss']:.3f}", f"{row['apart']:.1e}",
            f"{row['float32_apart']:.1e}", f"{row['round_trip']:.1e}", style=style,
        )  # fmt: skip
    return table


def step_table(rows: list[dict[str, Any]]) -> Table:
    """Returns the step times as a table."""
    table = Table(title="Training step, milliseconds (medians)")
    columns = ("model", "torch dense", "sparse", "share", "ort dense", "sparse", "share", "dense ort/torch")
    for column in columns:
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in rows:
        ms = {name: f"{value:.0f}" for name, value in row["milliseconds"].items()}
        table.add_row(
            row["model"], ms["torch dense"], ms["torch sparse"], f"{row['torch_sparse_share']:.2f}", ms["ort dense"],
            ms["ort sparse"], f"{row['ort_sparse_share']:.2f}", f"{row['ort_dense_share_of_torch']:.2f}",
        )  # fmt: skip
    return table


def main() -> None:
    options = parser(__doc__, only=list(TASKS), rounds=9)
    options.add_argument("--curves", action="store_true", help="loss curves only")
    options.add_argument("--steps", action="store_true", help="step times only")
    options.add_argument("--length", type=int, default=STEPS, help="steps of the curves")
    args = options.parse_args()
    both = args.curves == args.steps
    names = args.only or list(TASKS)
    console = Console()
    result: dict[str, Any] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        total = (2 * len(names) if args.curves or both else 0) + (args.steps or both)
        bar = progress.add_task("training", total=total)
        if args.curves or both:
            result["curves"] = list(curve_rows(names, args.length, lambda: progress.advance(bar)))
        if args.steps or both:
            result["steps"] = list(step_rows(args.rounds, lambda: progress.advance(bar)))
    if "curves" in result:
        console.print(curve_table(result["curves"]))
    if "steps" in result:
        console.print(step_table(result["steps"]))
    import onnxruntime

    write_json(args.json, {"onnxruntime": onnxruntime.__version__, **result})


if __name__ == "__main__":
    main()
