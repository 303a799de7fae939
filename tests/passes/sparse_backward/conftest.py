"""The oracle of these tests: the dense backward of torch's own op, with the dropped channels of grad_output zeroed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ecograph.passes.sparse_backward.layer import SparseLayer
from ecograph.passes.sparse_backward.modules import REPLACEMENTS
from ecograph.schedule import Rate


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def channel_mask(grad: Tensor, keep: int, groups: int = 1, dim: int = 1) -> Tensor:
    """1 for the ``keep`` channels of each group with the largest mean |grad|, else 0; plain Python on purpose."""
    channels = grad.shape[dim]
    scores = grad.double().abs().movedim(dim, 0).reshape(channels, -1).mean(1).tolist()
    per_group = channels // groups
    mask = torch.zeros(channels, dtype=grad.dtype)
    for group in range(groups):
        members = range(group * per_group, (group + 1) * per_group)
        for channel in sorted(members, key=lambda c: -scores[c])[:keep]:
            mask[channel] = 1
    shape = [1] * grad.ndim
    shape[dim] = channels
    return mask.view(shape)


def dense_grads(
    plain: Callable[..., Tensor],
    leaves: list[Tensor | None],
    cotangent: Tensor,
    keep: int,
    groups: int = 1,
    dim: int = 1,
    grads: tuple[bool, bool] = (True, True),
) -> list[Tensor | None]:
    """Gradients of ``plain(*leaves)`` for (input, weight, bias), each from the masked or the full cotangent."""
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    output = plain(*leaves)
    masked = cotangent * channel_mask(cotangent, keep, groups, dim)
    sparse = iter(torch.autograd.grad(output, wanted, masked, retain_graph=True))
    dense = iter(torch.autograd.grad(output, wanted, cotangent))
    results: list[Tensor | None] = []
    for index, leaf in enumerate(leaves):
        if leaf is None or not leaf.requires_grad:
            results.append(None)
            continue
        pair = next(dense), next(sparse)
        results.append(pair[grads[min(index, 1)]])
    return results


@pytest.fixture
def mask() -> Callable[..., Tensor]:
    return channel_mask


@pytest.fixture
def oracle() -> Callable[..., list[Tensor | None]]:
    return dense_grads


@pytest.fixture
def make_sparse() -> Callable[..., Any]:
    """Turns a plain layer into a sparse one, in place, as the lowering does."""

    def make(layer: nn.Module, drop: float, **options: Any) -> nn.Module:
        rate = options.pop("rate", None) or Rate(drop, "constant")
        channels = getattr(layer, "out_channels", None) or layer.out_features
        settings = {
            "grads": ("input", "weight"),
            "random": False,
            "unbiased": False,
            "align": 1,
            "dense_because": "",
        }
        layer.sparse = SparseLayer(
            "layer", rate, channels=channels // getattr(layer, "groups", 1), **{**settings, **options}
        )
        layer.__class__ = REPLACEMENTS[type(layer)]
        return layer

    return make
