"""Loss curves of ONNX Runtime next to PyTorch's, from the same weights, batches and learning rate.

A reference that does not reproduce itself cannot judge: a network that float32 makes chaotic at a learning rate comes
apart from itself. So the rate of each network is the largest of a ladder at which PyTorch, from weights that differ by
one part in ten million, stays within ``SENSITIVE`` of itself in every step, in each of the ways to train. ONNX Runtime
has no part in that choice.

Sparse, the curves are compared twice: left alone, and with PyTorch made to keep the channels that ONNX Runtime kept.
In both, every step in which they would keep others is listed, with the relative difference of the scores that it is
about: "gap". Made to keep the same, a gap says how near to a tie the two channels were; left alone, the first one
does, and what follows is another training.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from ort_tasks import TASKS, Batch, Task, loss_of, make_optimizer
from torch import Tensor, nn

import ecograph
from ecograph.export import OrtTrainer
from ecograph.passes import SliceOut, SparseBackward
from ecograph.passes.sparse_backward.selection import select_channels
from ecograph.record import records

#: Passes, by the way to train.
WAYS: dict[str, list[Any]] = {
    "dense": [],
    "sparse": [SparseBackward(0.8, schedule="constant", when="always")],
    "sliced": [SliceOut(0.5, when="always")],
}
LADDER = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 5e-4, 2e-4, 1e-4)
NUDGE, SENSITIVE = 1e-7, 1e-4


def build(task: Task, way: str, steps: int) -> tuple[nn.Module, list[Batch]]:
    """Returns the model, the same in all ways but for its passes, and the batches."""
    torch.manual_seed(0)
    model = task.build()
    batches = [task.batch() for _ in range(steps)]
    if WAYS[way]:
        ecograph.optimize(model, example_inputs=(batches[0][0],), passes=WAYS[way])
    return model, batches


def torch_losses(task: Task, model: nn.Module, lr: float, batches: list[Batch]) -> Iterator[float]:
    """Yields the losses of training in PyTorch."""
    model.train()
    optimizer = make_optimizer(task, model, lr)
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_of(task, model(x), y)
        loss.backward()
        optimizer.step()
        yield loss.item()


def relative(ours: float, theirs: float) -> float:
    """Returns the relative difference; infinite for a loss that is not finite."""
    difference = abs(ours - theirs) / abs(theirs)
    return difference if difference == difference else float("inf")


def apart(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, int]:
    """Returns the largest relative difference in any step, and the step."""
    return max((relative(a, b), i) for i, (a, b) in enumerate(zip(ours, theirs, strict=True)))


def sensitivity(task: Task, way: str, lr: float, steps: int) -> tuple[float, int]:
    """Returns how far PyTorch comes apart from itself, and in which step; stops at the first that is too far."""
    model, batches = build(task, way, steps)
    nudged = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in nudged.parameters():
            parameter.mul_(1 + NUDGE * torch.randn_like(parameter))
    worst = (0.0, 0)
    curves = zip(torch_losses(task, model, lr, batches), torch_losses(task, nudged, lr, batches), strict=True)
    for step, (plain, other) in enumerate(curves):
        worst = max(worst, (relative(other, plain), step))
        if worst[0] >= SENSITIVE:
            break
    return worst


def choose_rate(task: Task, steps: int) -> dict[str, Any]:
    """Returns the largest rate of the ladder at which PyTorch reproduces itself, and why the larger ones were not it.

    Where there is none, the smallest, with ``"reproduces": False``.
    """
    rejected = []
    for lr in LADDER:
        found = {}
        for way in WAYS:
            found[way], step = sensitivity(task, way, lr, steps)
            if found[way] >= SENSITIVE:
                rejected.append({"lr": lr, "way": way, "step": step, "apart": found[way]})
                break
        else:
            return {"lr": lr, "reproduces": True, "sensitivity": found, "rejected": rejected}
    return {"lr": LADDER[-1], "reproduces": False, "sensitivity": found, "rejected": rejected}


Kept = dict[str, set[int]]


def kept_in_ort(trainer: OrtTrainer, layers: Sequence[str]) -> Kept:
    """Returns by layer the channels that the last step kept: the rows of the weight's gradient that are not zero."""
    found = {}
    for layer in layers:
        grad = torch.from_numpy(trainer._state.parameters[f"{layer}.weight"].grad)
        found[layer] = set(grad.flatten(1).ne(0).any(1).nonzero().flatten().tolist())
    return found


class Comparison:
    """What PyTorch keeps next to what ONNX Runtime kept.

    Args:
        kept: of ONNX Runtime, for each step.
        same: make PyTorch keep the same.

    Attributes:
        swaps: where it would keep others: step, layer, how many, and the largest gap.
    """

    def __init__(self, kept: Sequence[Kept], *, same: bool) -> None:
        self.kept, self.same = kept, same
        self.swaps: list[dict[str, Any]] = []
        self.step = -1
        self._layer = ""

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """While this lasts, the sparse backward of ``model`` asks here."""
        handles = [model.register_forward_pre_hook(self._begin)]
        for layer in self.kept[0]:
            handles.append(model.get_submodule(layer).register_forward_hook(self._named(layer)))
        where = "ecograph.passes.sparse_backward"
        try:
            with patch(f"{where}.linear.select_channels", self._select), patch(
                f"{where}.conv.select_channels", self._select
            ):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, module: nn.Module, args: Any) -> None:
        self.step += 1

    def _named(self, layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def begin(grad: Tensor) -> None:  # runs right before the layer's own backward
            self._layer = layer

        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            output.register_hook(begin)

        return hook

    def _select(self, scores: Tensor, keep: int, groups: int = 1, *, random: bool = False) -> Tensor:
        own = select_channels(scores, keep, groups, random=random)
        ours, theirs = set(own.tolist()), self.kept[self.step][self._layer]
        added = sorted(theirs - ours, key=lambda channel: float(scores[channel]))
        if not added:  # a kept channel whose gradient is all zeros does not show
            return own
        gone = sorted(ours - theirs, key=lambda channel: float(scores[channel]))[: len(added)]
        high, low = float(scores[gone[-1]]), float(scores[added[0]])
        gap = (high - low) / high
        self.swaps.append({"step": self.step, "layer": self._layer, "channels": len(added), "gap": gap})
        return torch.tensor(sorted(ours - set(gone) | set(added))) if self.same else own


def curve(name: str, way: str, chosen: dict[str, Any], steps: int) -> dict[str, Any]:
    """Trains one network in both, and returns how far the curves are apart."""
    task, lr = TASKS[name], chosen["lr"]
    model, batches = build(task, way, steps)
    sparse = [site.name for record in records(model) for site in record.sites if hasattr(site.layer, "gradients")]
    with tempfile.TemporaryDirectory() as folder:
        path = ecograph.export_onnx_training(
            model, (batches[0][0],), loss=task.loss, optimizer=make_optimizer(task, model, lr),
            path=Path(folder) / "exported",
        )  # fmt: skip
        trainer = OrtTrainer(path)
        ours, kept = [], []
        for x, y in batches:
            ours.append(trainer.train_step(x, targets=y))
            kept.append(kept_in_ort(trainer, sparse))
        plain = copy.deepcopy(model)
        back = trainer.to_torch(ecograph.restore(plain) if WAYS[way] else plain).eval()
        x, y = batches[0]
        _, output = trainer.eval_step(x, targets=y)
        with torch.no_grad():
            round_trip = (back(x) - torch.from_numpy(output)).abs().max().item()
    curves = []
    for same in (True, False):
        reference, comparison = copy.deepcopy(model), Comparison(kept, same=same)
        with comparison.watching(reference) if sparse else nullcontext():
            curves.append((list(torch_losses(task, reference, lr, batches)), comparison.swaps))
        if not sparse:  # there is nothing to keep
            curves *= 2
            break
    (theirs, gaps), (alone, swaps) = curves
    far, step = apart(ours, theirs)
    return {
        "task": name, "way": way, "steps": steps, "sites": len(trainer.manifest.sites),
        "slices": len(trainer.manifest.slices), "optimizer": task.optimizer, "lr": lr,
        "first_loss": theirs[0], "last_loss": theirs[-1], "apart": far, "apart_in_step": step,
        "swaps": gaps, "largest_gap": max((swap["gap"] for swap in gaps), default=None),
        "left_alone": apart(ours, alone)[0], "first_swap_left_alone": next(iter(swaps), None),
        "float32_apart": chosen["sensitivity"].get(way), "round_trip": round_trip, "ort": ours, "torch": theirs,
    }  # fmt: skip
