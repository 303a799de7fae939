"""Whether a sparse backward pays for a layer: a simple rule, from shapes.

What is saved is arithmetic: ``drop`` times the backward's FLOPs. What it costs is traffic: reading grad_output once
more for the scores, gathering the kept channels, filling and scattering grad_weight, and a fixed time for a dozen more
calls. Both are turned into time with round figures for one device class; the layer is made sparse where it saves
clearly more than it costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ecograph.cost.flops import conv_flops, linear_flops

# Round figures for a current CPU core, found with benchmarks/sparse_backward.py on two cores: products run at about 100
# GFLOP/s, the extra passes move about 3 GB/s each way (single-use memory, page faults included), and the extra calls of
# one layer take 0.15 ms. On a GPU all three are larger by similar factors, except the calls, so the rule is a little
# too eager there for tiny layers.
_FLOPS_PER_SECOND = 100e9
_ELEMENTS_PER_SECOND = 3e9
_CALLS_SECONDS = 150e-6
#: The saving must be this many times the cost, since the figures are rough.
_MARGIN = 1.5


@dataclass(frozen=True)
class Workload:
    """The size of one product.

    Attributes:
        flops: multiply-adds of the forward times two; each gradient costs the same.
        output_elements: of grad_output.
        weight_elements: of grad_weight.
    """

    flops: int
    output_elements: int
    weight_elements: int

    @classmethod
    def of_linear(cls, output: tuple[int, ...], in_features: int) -> Workload:
        """A linear product with this output shape."""
        return cls(linear_flops(output, in_features), math.prod(output), output[-1] * in_features)

    @classmethod
    def of_conv(
        cls, input: tuple[int, ...], weight: tuple[int, ...], output: tuple[int, ...], *, transposed: bool
    ) -> Workload:
        """A convolution with these shapes."""
        flops = conv_flops(input, weight, output, transposed=transposed)
        return cls(flops, math.prod(output), math.prod(weight))

    def sliced(self, inp: float, out: float) -> Workload:
        """The same product on shares of its input and output channels."""
        return Workload(
            round(self.flops * inp * out), round(self.output_elements * out), round(self.weight_elements * inp * out)
        )


def why_dense(workload: Workload, drop: float, grads: tuple[bool, bool]) -> str:
    """Returns why a layer of this size should stay dense at this drop, or ``""`` where a sparse backward pays."""
    saves = drop * workload.flops * sum(grads) / _FLOPS_PER_SECOND
    moved = (1 + 2 * (1 - drop)) * workload.output_elements + workload.weight_elements
    costs = moved / _ELEMENTS_PER_SECOND + _CALLS_SECONDS
    if saves >= _MARGIN * costs:
        return ""
    return f"does not pay: would save about {saves * 1e3:.2g} ms and cost {costs * 1e3:.2g} ms"
