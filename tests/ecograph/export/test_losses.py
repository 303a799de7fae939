"""Every loss and every optimizer trains as in PyTorch; and SGD's momentum survives a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecograph.export import OrtTrainer, export_onnx_training
from ecograph.export.optimizers import find_optimizer


class Autoencoder(nn.Module):
    """Computes its loss itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        restored = self.decode(torch.tanh(self.encode(x)))
        return {"loss": F.mse_loss(restored, x), "restored": restored}


def network() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def absolute(output: Tensor, targets: Tensor) -> Tensor:
    """A loss of the user's."""
    return (output - targets).abs().mean()


Optimizer = Callable[[Any], torch.optim.Optimizer]
SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW
CASES: dict[str, tuple[Callable[[], nn.Module], Any, Any, Callable[[], Any], Optimizer]] = {
    "mse, momentum": (
        network, "mse", F.mse_loss, lambda: torch.randn(8, 3),
        lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    ),
    "bce, adamw": (
        network, nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits, lambda: torch.rand(8, 3),
        lambda p: ADAMW(p, lr=1e-2),
    ),
    "of the model, nesterov": (
        Autoencoder, "model", None, None, lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    ),
    "of the user, weight decay": (
        network, absolute, absolute, lambda: torch.randn(8, 3), lambda p: SGD(p, lr=0.05, weight_decay=0.1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_trains_as_pytorch_does(case: str, tmp_path: Path) -> None:
    build, loss, loss_fn, make_targets, make_optimizer = CASES[case]
    model = build()
    optimizer = make_optimizer(model.parameters())
    batches = [(torch.randn(8, 6), make_targets() if make_targets else None) for _ in range(6)]
    options = {"example_targets": batches[0][1]} if loss is absolute else {}
    path = export_onnx_training(
        model, (batches[0][0],), loss=loss, optimizer=optimizer, path=tmp_path / "exported", **options
    )

    def loss_of(model: nn.Module, x: Tensor, y: Tensor | None) -> Tensor:
        value: Tensor = model(x)["loss"] if loss_fn is None else loss_fn(model(x), y)
        return value

    trainer = OrtTrainer(path)
    model.train()
    for x, y in batches:
        optimizer.zero_grad()
        theirs = loss_of(model, x, y)
        theirs.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        assert trainer.train_step(x, targets=y) == pytest.approx(theirs.item(), rel=1e-5)
    state = model.state_dict()
    assert trainer.state_dict().keys() == state.keys()
    for name, value in trainer.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-6, msg=name)
    x, y = batches[0]
    with torch.no_grad():
        assert trainer.eval_step(x, targets=y)[0] == pytest.approx(loss_of(model.eval(), x, y).item(), rel=1e-5)

    # From a checkpoint in the middle of the training, what comes after is the same to the bit.
    file = trainer.save(tmp_path / "kept")
    after = [trainer.train_step(x, targets=y) for x, y in batches]
    again = OrtTrainer(path, checkpoint=file)
    assert [again.train_step(x, targets=y) for x, y in batches] == after


def two_groups() -> torch.optim.Optimizer:
    first, second = nn.Linear(2, 2).parameters()
    return SGD([{"params": [first]}, {"params": [second], "lr": 0.5}], lr=0.1)


def with_options(kind: Callable[..., Any], **options: Any) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = kind(nn.Linear(2, 2).parameters(), lr=0.1, **options)
    return made


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        ("lion", "optimizer='lion': ONNX Runtime has SGD and AdamW"),
        (torch.optim.SGD, "optimizer='SGD'"),
        (with_options(torch.optim.Adam), "optimizer='Adam'"),
        (with_options(SGD, momentum=0.9, dampening=0.1), r"SGD\(dampening=0.1\) is not exported"),
        (with_options(SGD, maximize=True), r"SGD\(maximize=True\)"),
        (with_options(ADAMW, amsgrad=True), r"AdamW\(amsgrad=True\)"),
        (two_groups(), "parameter groups with different lr"),
    ],
)
def test_optimizers_that_are_not_exported(optimizer: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        find_optimizer(optimizer)
