from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ecograph.tools.errors import UserError
from ecograph.tools.training.losses import LOSSES, find_loss, token_cross_entropy


def test_tokens() -> None:
    scores, targets = torch.randn(2, 3, 5, dtype=torch.float64), torch.randint(5, (2, 3))
    expected = -scores.log_softmax(2).gather(2, targets.unsqueeze(2)).mean()
    torch.testing.assert_close(token_cross_entropy(scores, targets), expected)
    torch.testing.assert_close(token_cross_entropy(SimpleNamespace(logits=scores), targets), expected)


def test_by_name() -> None:
    assert all(find_loss(name) is loss for name, loss in LOSSES.items())
    assert find_loss("model") is None
    assert find_loss("torch.nn.functional:huber_loss") is F.huber_loss
    assert isinstance(find_loss("torch.nn:HuberLoss"), torch.nn.HuberLoss)


@pytest.mark.parametrize(
    ("name", "word"),
    [("cross-entropy", "did you mean cross_entropy"), ("hinge", "smooth_l1"), ("torch:pi", "float"), ("no:no", "'no'")],
)
def test_mistakes(name: str, word: str) -> None:
    with pytest.raises(UserError, match=f"loss '{name}'.*{word}"):
        find_loss(name)
