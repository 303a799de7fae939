import pytest
import torch

from ecograph.loop.measure import Mean, accuracy


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
