"""What a model computes, counted eagerly and below autograd: the reference for capture and analysis.

Nothing here uses ecograph. Models run on fake tensors, so counting costs no arithmetic and no memory.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    FlopCounterMode,
    conv_flop_count,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

aten = torch.ops.aten

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def fake_copy(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs, FakeTensorMode]:
    """Returns copies of model and inputs with shapes and dtypes but no data, and the mode they need."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, FakeCopyMode(mode), warnings.catch_warnings():
        # A weight that is kept beside the parameters it derives from (weight_norm) is no leaf.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
        fake = copy.deepcopy(model).train()
    args, kwargs = pytree.tree_map_only(torch.Tensor, mode.from_tensor, inputs)
    return fake, (args, kwargs), mode


def loss_of(output: Any) -> torch.Tensor:
    """Returns a scalar to which every output tensor contributes, or the model's own loss where it has one."""
    own = getattr(output, "loss", None)
    if isinstance(own, torch.Tensor):
        return own
    leaves = pytree.tree_leaves(dict(output) if hasattr(output, "items") else output)
    tensors = [t for t in leaves if isinstance(t, torch.Tensor) and t.requires_grad]
    assert tensors, "the model returned nothing with a gradient"
    return torch.stack([t.float().sum() for t in tensors]).sum()


# -- FLOPs
# ------------------------------------------------------------------------------------------------------------


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


def _conv_backward(
    grad: Any,
    x: Any,
    weight: Any,
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    mask: Any,
    out_shape: Any,
) -> int:
    """Each of the two gradients has exactly the multiplications of the forward.

    torch's own formula writes the gradient of the weight as a dense convolution with all channels, which is too much
    by a factor of the number of groups. For groups=1 the two agree, which a test holds.
    """
    return int(conv_flop_count(x, weight, grad, transposed)) * (bool(mask[0]) + bool(mask[1]))


def _lstm(x: Any, weight: Any, recurrent: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return 2 * (x[0] * x[1]) * (weight[0] * weight[1] + recurrent[0] * recurrent[1])


def _lstm_backward(x: Any, weight: Any, recurrent: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Gradients of the weights and of the inputs; there is no state before the first step to send one to."""
    first = 2 * x[1] * recurrent[0] * recurrent[1]
    return 2 * _lstm(x, weight, recurrent) - first


#: FlopCounterMode with its gaps closed: attention and LSTMs on the CPU, and the backward of grouped
#: convolutions.
CORRECTED: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.convolution_backward: _conv_backward,
    aten.mkldnn_rnn_layer: _lstm,
    aten.mkldnn_rnn_layer_backward: _lstm_backward,
}


# -- products with a parameter weight
# ---------------------------------------------------------------------------------

#: Which arguments of the ATen operators are multiplied with one another.
_OPERANDS: dict[Any, tuple[int, int]] = {
    aten.convolution.default: (0, 1),
    aten.mm.default: (0, 1),
    aten.bmm.default: (0, 1),
    aten.mv.default: (0, 1),
    aten.addmm.default: (1, 2),
    aten.addmv.default: (1, 2),
    aten.baddbmm.default: (1, 2),
    aten._trilinear.default: (0, 1),
}


#: A product with a weight: the parameters behind the weight, and the path of the module in whose forward it
#: was called.
Call = tuple[frozenset[str], str]


class _Products(TorchDispatchMode):
    """Follows, by storage, what derives from parameters alone; notes every product with such a weight."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.found: Counter[Call] = Counter()
        self._alive: list[Any] = []  # an address must not be used twice
        self._sources: dict[int, frozenset[str] | None] = {}
        self._stack: list[str] = [""]
        for name, parameter in model.named_parameters():
            self._sources[_address(parameter)] = frozenset({name})
        for tensor in pytree.tree_leaves(inputs):
            if isinstance(tensor, torch.Tensor):
                self._sources[_address(tensor)] = None
        for path, module in model.named_modules():
            module.register_forward_pre_hook(lambda *_, path=path: self._stack.append(path))
            module.register_forward_hook(self._leave, always_call=True)

    def _leave(self, *_: Any) -> None:
        self._stack.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _OPERANDS:
            names = [self._source(args[i]) for i in _OPERANDS[func]]
            if any(names):  # where both are weights, the second stands in the place of one
                self.found[names[1] or names[0] or frozenset(), self._stack[-1]] += 1
        inputs = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        sources = [self._source(t) for t in inputs]
        known = [s for s in sources if s is not None]
        derived = frozenset().union(*known) if len(known) == len(sources) else None
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._alive.append(tensor)
                self._sources[_address(tensor)] = derived
        return result

    def _source(self, tensor: torch.Tensor) -> frozenset[str] | None:
        """The parameters a tensor derives from; empty for constants, None where an input is involved."""
        return self._sources.get(_address(tensor), frozenset())


def _address(tensor: torch.Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except NotImplementedError:  # inside torch.func.vmap
        return -id(tensor)


# -- the reference
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """What one eager training step computes.

    Attributes:
        forward: FLOPs of the forward.
        backward: FLOPs of the backward.
        products: how often an activation is multiplied by a weight, per weight and module.
    """

    forward: int
    backward: int
    products: Counter[Call]


def reference(
    model: nn.Module,
    inputs: Inputs,
    *,
    mapping: dict[Any, Callable[..., int]] | None = CORRECTED,
    real: bool = False,
) -> Reference:
    """Runs one training step of a copy of ``model`` eagerly and counts.

    Args:
        model: the model.
        inputs: ``(args, kwargs)``.
        mapping: formulas that overrule torch's own.
        real: run on real tensors, for models whose Python depends on values.
    """
    mode: Any
    if real:
        copied, (args, kwargs), mode = copy.deepcopy(model).train(), inputs, nullcontext()
    else:
        copied, (args, kwargs), mode = fake_copy(model, inputs)
    products = _Products(copied, (args, kwargs))
    with mode:
        with FlopCounterMode(display=False, custom_mapping=mapping) as forward, products:
            output = copied(*args, **kwargs)
        loss = loss_of(output)
        with FlopCounterMode(display=False, custom_mapping=mapping) as backward:
            loss.backward()
    return Reference(forward.get_total_flops(), backward.get_total_flops(), products.found)
