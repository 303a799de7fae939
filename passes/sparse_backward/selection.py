"""Which output channels the backward keeps, and what is written where it does not compute.

The score of a channel is the sum of ``|grad_output|`` over the batch and all positions (the paper's mean, times a
constant). The sums are needed even where the choice is random: a channel that holds NaN or infinity must not vanish
because nobody looked at it.
"""

from __future__ import annotations

import torch
from torch import Tensor

# abs() needs a temporary. In pieces of this size it stays in cache and the allocator need not ask the system for pages,
# which took up to three times as long as the arithmetic on a 25 MB gradient.
_PIECE_BYTES = 1 << 20


def _pieces(grad: Tensor) -> tuple[Tensor, ...]:
    """Returns ``grad`` in pieces along dim 0; whole on a GPU and for a compiler, which needs no temporary."""
    bytes_total = grad.numel() * grad.element_size()
    if grad.device.type != "cpu" or torch.compiler.is_compiling() or bytes_total < 2 * _PIECE_BYTES:
        return (grad,)
    return torch.split(grad, max(1, grad.shape[0] * _PIECE_BYTES // bytes_total))


def channel_scores(rows: Tensor) -> Tensor:
    """Returns the sum of absolute values per channel, in float32 or wider.

    Args:
        rows: ``(positions, C)``.

    Returns:
        ``(C,)``. A channel with NaN or infinity scores NaN or infinity.
    """
    # abs() then sum() is 3 to 6 times as fast on CPU as a vector norm over dim 0.
    wide = torch.promote_types(rows.dtype, torch.float32)
    sums = [piece.abs().sum(0, dtype=wide) for piece in _pieces(rows)]
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)


def channel_scores_planar(grad: Tensor) -> Tensor:
    """Returns the same as :func:`channel_scores` from ``(N, C, *positions)`` whose positions are contiguous."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    sums = [piece.abs().flatten(2).sum(2, dtype=wide).sum(0) for piece in _pieces(grad)]
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)


def select_channels(scores: Tensor, keep: int, groups: int = 1, *, random: bool = False) -> Tensor:
    """Returns the indices of the channels to keep, ascending, the same number from each group.

    Args:
        scores: ``(C,)``.
        keep: channels to keep per group.
        groups: number of groups; ``C`` is a multiple of it.
        random: draw the channels uniformly instead of taking the highest scores.

    Returns:
        ``(groups * keep,)``, int64. Ascending, so that what is gathered keeps its order in memory.
    """
    ranked = torch.rand_like(scores) if random else scores
    if groups == 1:
        return ranked.topk(keep, sorted=False).indices.sort().values
    per_group = scores.numel() // groups
    chosen = ranked.view(groups, per_group).topk(keep, dim=1, sorted=False).indices.sort(dim=1).values
    first = torch.arange(groups, device=scores.device).mul_(per_group).unsqueeze(1)
    return (chosen + first).flatten()


def fill_value(scores: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns what the gradient of a channel is where it was not computed: 0, or NaN where the channel is not finite.

    Args:
        scores: ``(C,)``.
        dtype: of the result.
    """
    return (scores - scores).to(dtype)  # inf - inf and nan - nan are nan


def dropped_nan(fill: Tensor, kept: Tensor) -> Tensor:
    """Returns NaN if a channel that was *not* kept holds NaN or infinity, else 0: a scalar tensor.

    Added to the gathered weight it turns grad_input to NaN, as a dense backward would have done somewhere, for the
    price of a few channels' worth of work.
    """
    return fill.index_fill(0, kept, 0).sum()
