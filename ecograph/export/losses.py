"""The losses that are exported, by name, and what their targets look like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: For models whose output is the loss.
OF_THE_MODEL = "model"

LossFunction = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Loss:
    """A loss that can be exported.

    Attributes:
        name: ``"cross_entropy"``, ..., or ``"custom"`` for a function of the user's.
        function: of the model's output and the targets; None where the model computes the loss itself.
        classes_dim: for class labels, the dimension of the scores that counts the classes; None for other targets.
        ignore_index: a label that does not count, if there is one.
    """

    name: str
    function: LossFunction | None
    classes_dim: int | None = None
    ignore_index: int | None = None

    def example_targets(self, output: Tensor) -> Tensor:
        """Returns targets that fit the scores ``output``, all zero.

        Raises:
            ValueError: for a loss of the user's.
        """
        if self.name == "custom":
            raise ValueError("loss is a function of your own: give example_targets=, so that their shape is known")
        if self.classes_dim is None:
            return torch.zeros_like(output)
        shape = list(output.shape)
        del shape[self.classes_dim]
        return torch.zeros(shape, dtype=torch.int64, device=output.device)


def scores(output: Any) -> Tensor:
    """Returns the tensor that a loss compares: the model's output, its ``logits``, or the first of several.

    Raises:
        ValueError: where there is none.
    """
    found = getattr(output, "logits", output)
    if isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        raise ValueError(f"the model returns {type(output).__name__}: give a loss function of your own that takes it")
    return found


def own_loss(output: Any) -> Tensor:
    """Returns the scalar that a model computed as its loss.

    Raises:
        ValueError: where its output holds none.
    """
    found = output.get("loss") if isinstance(output, dict) else getattr(output, "loss", output)
    if isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, Tensor) or found.numel() != 1:
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise ValueError(
            f'loss="model": the model returns {type(found).__name__}{shape}, not a scalar: give loss="cross_entropy", '
            "or let the model return its loss"
        )
    return found.reshape(())


def binary_cross_entropy(output: Any, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of scores, as ``F.binary_cross_entropy_with_logits``.

    Written with ``log_softmax`` of the scores beside zero: that is stable, and ONNX Runtime has its gradient.
    """
    values = scores(output)
    both = F.log_softmax(torch.stack((values, torch.zeros_like(values)), -1), -1)
    return -(targets * both[..., 0] + (1 - targets) * both[..., 1]).mean()


def _cross_entropy(output: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(scores(output), targets)


def _token_cross_entropy(output: Any, targets: Tensor) -> Tensor:
    return F.cross_entropy(scores(output).flatten(0, -2), targets.flatten())


def _mse(output: Any, targets: Tensor) -> Tensor:
    difference = scores(output) - targets
    return (difference * difference).mean()


LOSSES = {
    "cross_entropy": Loss("cross_entropy", _cross_entropy, classes_dim=1, ignore_index=-100),
    "token_cross_entropy": Loss("token_cross_entropy", _token_cross_entropy, classes_dim=-1, ignore_index=-100),
    "mse": Loss("mse", _mse),
    "bce": Loss("bce", binary_cross_entropy),
    OF_THE_MODEL: Loss(OF_THE_MODEL, None),
}

_SAME: dict[Any, str] = {
    F.cross_entropy: "cross_entropy",
    F.mse_loss: "mse",
    F.binary_cross_entropy_with_logits: "bce",
}
_MODULES: dict[type[nn.Module], tuple[str, tuple[str, ...]]] = {
    nn.CrossEntropyLoss: ("cross_entropy", ("weight", "ignore_index", "reduction", "label_smoothing")),
    nn.MSELoss: ("mse", ("reduction",)),
    nn.BCEWithLogitsLoss: ("bce", ("weight", "reduction", "pos_weight")),
}


def find_loss(loss: Any) -> Loss:
    """Returns the loss that a name, a function or loss of torch, or a function of the user's stands for.

    Raises:
        ValueError: for anything else, and for options of a ``torch.nn`` loss that are not exported.
    """
    if loss is None:
        return LOSSES[OF_THE_MODEL]
    if isinstance(loss, str):
        if loss not in LOSSES:
            raise ValueError(f"loss={loss!r}: give one of {', '.join(map(repr, LOSSES))}, or a function")
        return LOSSES[loss]
    if isinstance(loss, type):
        raise ValueError(f"loss={loss.__name__}: give an instance, {loss.__name__}()")
    if type(loss) in _MODULES:
        name, options = _MODULES[type(loss)]
        plain = type(loss)()
        for option in options:
            if getattr(loss, option) != getattr(plain, option):
                raise ValueError(f"loss={loss!r}: {option} is not exported: give a function that computes it")
        return LOSSES[name]
    if not callable(loss):
        raise ValueError(f"loss={loss!r}: give one of {', '.join(map(repr, LOSSES))}, or a function")
    name = next((name for function, name in _SAME.items() if function is loss), "")
    return LOSSES[name] if name else Loss("custom", loss)
