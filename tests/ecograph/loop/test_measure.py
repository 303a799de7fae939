from dataclasses import asdict
from typing import Any

import pytest
import torch

from ecograph.cost.energy import Energy
from ecograph.cost.meter import Part
from ecograph.loop.distributed import Alone
from ecograph.loop.measure import Clock, Mean, accuracy


def test_mean_weighs_by_samples() -> None:
    mean = Mean()
    assert mean.mean() is None
    mean.add(torch.tensor(1.0), 3)
    mean.add(torch.tensor([2.0]), 1)
    mean.add(5, 4)
    assert mean.mean() == (3 + 2 + 20) / 8


def test_mean_keeps_precision_and_no_graph() -> None:
    mean = Mean()
    weight = torch.tensor(0.1, requires_grad=True)
    for _ in range(10000):
        mean.add(weight * 1, 1)
    assert mean.mean() == pytest.approx(float(torch.tensor(0.1)), rel=1e-12)
    assert isinstance(mean._sum, torch.Tensor) and not mean._sum.requires_grad


def test_mean_stays_on_the_device() -> None:
    mean = Mean()
    mean.add(torch.tensor(1.0, device="meta"), 1)
    mean.add(torch.tensor(1.0, device="meta"), 1)
    assert isinstance(mean._sum, torch.Tensor) and mean._sum.is_meta


@pytest.mark.parametrize("value", [torch.ones(2), "high", None])
def test_mean_takes_single_numbers_only(value: object) -> None:
    with pytest.raises(ValueError, match="number"):
        Mean().add(value, 1)  # type: ignore[arg-type]


def test_a_clock_goes_on_where_it_was() -> None:
    clock = Clock()
    state = {"seconds": 100.0, "parts": [asdict(Part("nvml:0", 50.0, "measured:nvml"))]}
    clock.load_state_dict(state)
    energy = clock.energy()
    assert clock.seconds() >= 100 and energy.joules is not None and energy.joules > 50
    assert energy.source.startswith("measured:nvml + ")
    again = Clock()
    again.load_state_dict(clock.state_dict())
    found = again.energy().joules
    assert found is not None and found > energy.joules


def test_a_clock_of_an_older_checkpoint_does_not_know_its_energy() -> None:
    clock = Clock()
    clock.load_state_dict({"seconds": 100.0})
    assert clock.energy() == Energy(None, "none")


def test_the_energy_of_several_processes_is_added_up() -> None:
    class Two(Alone):
        def everyone(self, value: Any) -> list[Any]:
            other = [Part("cpu", None, "none", "read by the first process", needed=False)]
            return [value, [*other, Part("nvml:1", 1000.0, "measured:nvml")]]

    energy = Clock().energy(Two())
    assert energy.joules is not None and energy.joules > 1000
    assert energy.source.endswith(" + measured:nvml")


LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 3.0, 2.0], [5.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("outputs", "targets", "expected"),
    [
        (LOGITS, torch.tensor([0, 2, 0, 0]), 0.75),
        (LOGITS, torch.tensor([0, -100, 0, -100]), 0.5),
        (LOGITS, torch.tensor([-100] * 4), 0.0),
        (LOGITS, torch.eye(3)[[0, 2, 0, 1]], 0.5),
        (LOGITS.T[None], torch.tensor([[0, 2, 1, 1]]), 0.75),
        (torch.tensor([1.0, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.0]), 2 / 3),
        (torch.tensor([[1.0], [-1.0]]), torch.tensor([[1], [1]]), 0.5),
        (torch.tensor([[1.0, -1.0]]), torch.tensor([[1, 1]]), 0.5),
    ],
)
def test_accuracy(outputs: torch.Tensor, targets: torch.Tensor, expected: float) -> None:
    assert float(accuracy(outputs, targets)) == pytest.approx(expected)


def test_accuracy_refuses_what_it_cannot_compare() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\) with targets of shape \(4, 1\)"):
        accuracy(LOGITS, torch.zeros(4, 1))
