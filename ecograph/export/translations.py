"""Torch operators that the exporter would translate to something ONNX Runtime cannot differentiate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ecograph.export.requirements import OPSET


def translations(training: bool) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Returns the table for ``torch.onnx.export(custom_translation_table=...)``.

    Args:
        training: whether the graph will be differentiated.
    """
    from onnxscript import opset18

    assert opset18.version == OPSET
    op: Any = opset18  # its types are those of a model, and not of the names that stand for values here

    def constant(value: float) -> Any:
        return op.Constant(value_float=float(value))

    def vector(tensor: Any, input: Any, value: float) -> Any:
        """The tensor, or as many of a value as ``input`` has channels."""
        if tensor is not None:
            return tensor
        return op.Constant(value=_filled(input.shape[1], value))

    def batch_norm(
        input: Any,
        weight: Any = None,
        bias: Any = None,
        running_mean: Any = None,
        running_var: Any = None,
        train: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Any:
        # What is not used later is an output too, and needs a name of its own: Identity.
        weight, bias = vector(weight, input, 1.0), vector(bias, input, 0.0)
        mean, var = vector(running_mean, input, 0.0), vector(running_var, input, 1.0)
        if train:
            # ONNX averages squares over all elements, torch's running variance over one less. From a zero the node
            # makes momentum * variance; and it writes into its inputs' memory, so the statistic itself is no input.
            output, new_mean, part = op.BatchNormalization(
                input, weight, bias, mean, op.Sub(var, var), epsilon=eps, momentum=1.0 - momentum, training_mode=1
            )
            count = op.Cast(op.Div(op.Size(input), op.Constant(value_int=int(input.shape[1]))), to=1)
            unbiased = op.Div(count, op.Sub(count, constant(1)))
            kept = op.Mul(var, constant(1 - momentum))
            new_var = op.Add(kept, op.Mul(part, unbiased))
            return output, op.Identity(mean), op.Identity(var), new_mean, new_var
        if not training:
            output = op.BatchNormalization(input, weight, bias, mean, var, epsilon=eps)
            return output, *(op.Identity(each) for each in (mean, var, mean, var))
        # In eval mode within a model that is trained: a scale and a shift by channel, which have gradients.
        shape = op.Constant(value_ints=[-1] + [1] * (len(input.shape) - 2))
        scale = op.Div(weight, op.Sqrt(op.Add(var, constant(eps))))
        shift = op.Sub(bias, op.Mul(mean, scale))
        output = op.Add(op.Mul(input, op.Reshape(scale, shape)), op.Reshape(shift, shape))
        return output, *(op.Identity(each) for each in (mean, var, mean, var))

    def batch_norm_without_statistics(
        input: Any, weight: Any, bias: Any, train: bool, momentum: float, eps: float
    ) -> Any:
        return batch_norm(input, weight, bias, None, None, True, momentum, eps)[:3]

    def batch_norm_in_eval(
        input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float
    ) -> Any:
        return batch_norm(input, weight, bias, running_mean, running_var, False, momentum, eps)[:3]

    def avg_pool2d(
        input: Any,
        kernel_size: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0, 0),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        # The gradient of AveragePool divides by zero and takes the process with it.
        kernel, padding = _pair(kernel_size), _pair(padding)
        stride = _pair(stride) if stride else kernel
        if ceil_mode or (any(padding) and not count_include_pad):
            raise NotImplementedError("avg_pool2d with ceil_mode, or padding that does not count, is not exported")
        channels, height, width = (int(size) for size in input.shape[-3:])
        exact = not height % kernel[0] and not width % kernel[1] and list(stride) == list(kernel) and not any(padding)
        divisor = divisor_override or math.prod(kernel)
        if exact and divisor == math.prod(kernel):
            down, across = height // kernel[0], width // kernel[1]
            blocks = op.Constant(value_ints=[-1, channels, down, kernel[0], across, kernel[1]])
            return op.ReduceMean(op.Reshape(input, blocks), op.Constant(value_ints=[3, 5]), keepdims=0)
        weight = op.Constant(value=_filled((channels, 1, *kernel), 1 / divisor))
        pads = [*padding, *padding]
        return op.Conv(input, weight, kernel_shape=kernel, strides=stride, pads=pads, group=channels)

    def elu(x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Any:
        # Where, and not Relu: at zero the gradient is that of the left side, as torch's.
        above, zero = op.Greater(x, constant(0)), constant(0)
        left = op.Exp(op.Mul(op.Where(above, zero, x), constant(input_scale)))
        curved = op.Mul(op.Sub(left, constant(1)), constant(alpha))
        return op.Mul(op.Where(above, x, curved), constant(scale))

    def selu(x: Any) -> Any:
        return elu(x, 1.6732632423543772, 1.0507009873554805)

    def celu(x: Any, alpha: float = 1.0) -> Any:
        return elu(x, alpha, 1.0, 1 / alpha)

    def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
        scaled = op.Mul(x, constant(beta))
        linear = op.Greater(scaled, constant(threshold))
        bounded = op.Where(linear, constant(0), scaled)
        curved = op.Div(op.Log(op.Add(op.Exp(bounded), constant(1))), constant(beta))
        return op.Where(linear, x, curved)

    def mish(x: Any) -> Any:
        return op.Mul(x, op.Tanh(softplus(x)))

    def hardsigmoid(x: Any) -> Any:
        return op.Clip(op.Add(op.Div(x, constant(6)), constant(0.5)), constant(0), constant(1))

    def hardswish(x: Any) -> Any:
        return op.Mul(x, hardsigmoid(x))

    def group_norm(
        input: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn_enabled: bool = True
    ) -> Any:
        channels, positions = int(input.shape[1]), [int(size) for size in input.shape[2:]]
        rows = op.Reshape(input, op.Constant(value_ints=[-1, channels // groups * math.prod(positions)]))
        centred = op.Sub(rows, op.ReduceMean(rows, op.Constant(value_ints=[1])))
        variance = op.ReduceMean(op.Mul(centred, centred), op.Constant(value_ints=[1]))
        normed = op.Div(centred, op.Sqrt(op.Add(variance, constant(eps))))
        output = op.Reshape(normed, op.Constant(value_ints=[-1, channels, *positions]))
        by_channel = op.Constant(value_ints=[-1] + [1] * len(positions))
        if weight is not None:
            output = op.Mul(output, op.Reshape(weight, by_channel))
        return output if bias is None else op.Add(output, op.Reshape(bias, by_channel))

    def instance_norm(
        input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, use_input_stats: bool, *rest: Any
    ) -> Any:
        _, eps, _ = rest
        if running_mean is not None:
            raise NotImplementedError("instance_norm with running statistics is not exported")
        return group_norm(input, int(input.shape[1]), weight, bias, eps)

    def upsample_nearest(input: Any, size: Any = None, scales: Any = None, *rest: Any) -> Any:
        # Resize has no gradient on CPUs; whole multiples are copies.
        before = [int(each) for each in input.shape[2:]]
        after = [round(a * b) for a, b in zip(before, scales, strict=True)] if scales else [int(each) for each in size]
        if any(b % a for a, b in zip(before, after, strict=True)):
            raise NotImplementedError(
                f"nearest upsampling from {before} to {after}, no whole multiple, is not exported"
            )
        channels = int(input.shape[1])
        each = [size for a in before for size in (a, 1)]
        copies = [size for a, b in zip(before, after, strict=True) for size in (1, b // a)]
        apart = op.Reshape(input, op.Constant(value_ints=[-1, channels, *each]))
        spread = op.Expand(apart, op.Constant(value_ints=[1, 1, *copies]))
        return op.Reshape(spread, op.Constant(value_ints=[-1, channels, *after]))

    aten = torch.ops.aten
    return {
        aten._native_batch_norm_legit_functional.default: batch_norm,
        aten._native_batch_norm_legit.no_stats: batch_norm_without_statistics,
        aten._native_batch_norm_legit_no_training.default: batch_norm_in_eval,
        aten.avg_pool2d.default: avg_pool2d,
        aten.upsample_nearest2d.default: upsample_nearest,
        aten.upsample_nearest2d.vec: upsample_nearest,
        aten.elu.default: elu,
        aten.selu.default: selu,
        aten.celu.default: celu,
        aten.softplus.default: softplus,
        aten.mish.default: mish,
        aten.hardsigmoid.default: hardsigmoid,
        aten.hardswish.default: hardswish,
        aten.group_norm.default: group_norm,
        aten.instance_norm.default: instance_norm,
    }


def _pair(value: int | Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _filled(shape: int | tuple[int, ...], value: float) -> Any:
    import numpy as np
    import onnx_ir

    return onnx_ir.tensor(np.full(shape, value, np.float32))
