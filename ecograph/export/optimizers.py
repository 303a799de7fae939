"""The optimizers that ONNX Runtime has, from a name or from a ``torch.optim`` optimizer with the same settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer and its settings.

    Attributes:
        name: ``"sgd"`` or ``"adamw"``.
        lr: the learning rate to begin with; the trainer can change it.
        options: of AdamW: betas, eps, weight_decay. Of SGD: momentum, weight_decay and nesterov, where they are given.
    """

    name: str
    lr: float
    options: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON types."""
        return asdict(self)


_ADAMW = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2}


def find_optimizer(optimizer: Any) -> OptimizerSpec:
    """Returns the optimizer that a name, or an instance of ``torch.optim.SGD`` or ``AdamW``, stands for.

    Raises:
        ValueError: for another one, and for settings that ONNX Runtime does not have.
    """
    if optimizer == "sgd":
        return OptimizerSpec("sgd", 1e-2)
    if optimizer == "adamw":
        return OptimizerSpec("adamw", 1e-3, dict(_ADAMW))
    if not isinstance(optimizer, (torch.optim.SGD, torch.optim.AdamW)):
        name = optimizer if isinstance(optimizer, str) else getattr(optimizer, "__name__", type(optimizer).__name__)
        raise ValueError(
            f"optimizer={name!r}: ONNX Runtime has SGD and AdamW: give 'sgd', 'adamw', or an instance such as "
            "torch.optim.AdamW(model.parameters(), lr=1e-3)"
        )
    kind = type(optimizer).__name__
    first, *others = optimizer.param_groups
    for group in others:
        for option, value in group.items():
            if option != "params" and value != first[option]:
                raise ValueError(f"optimizer: {kind} has parameter groups with different {option}: give it one group")
    if first.get("maximize"):
        raise ValueError(f"optimizer: {kind}(maximize=True) is not in ONNX Runtime: negate the loss")
    if isinstance(optimizer, torch.optim.SGD):
        if first["dampening"]:
            raise ValueError(f"optimizer: SGD(dampening={first['dampening']:g}) is not exported: give dampening=0")
        options = {option: first[option] for option in ("momentum", "weight_decay", "nesterov") if first[option]}
        return OptimizerSpec("sgd", float(first["lr"]), options)
    if first["amsgrad"]:
        raise ValueError("optimizer: AdamW(amsgrad=True) is not in ONNX Runtime: give amsgrad=False")
    return OptimizerSpec("adamw", float(first["lr"]), {option: first[option] for option in _ADAMW})


def make_block(spec: OptimizerSpec) -> Any:
    """Returns the block of ``onnxruntime.training.onnxblock`` that makes the optimizer's graph."""
    from onnxruntime.training import onnxblock

    return onnxblock.optim.SGD() if spec.name == "sgd" else onnxblock.optim.AdamW(**spec.options)


def as_torch(model: onnx.ModelProto) -> None:
    """Has AdamW decay weights before the step and correct both moments, as torch does; in place."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "AdamWOptimizer" and attribute.name == "adam_mode":
                attribute.i = 0
