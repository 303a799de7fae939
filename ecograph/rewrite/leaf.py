"""Rewritten layers under ``torch.fx`` tracing: one node each, as torch's own layers are.

Traced through, a layer would be frozen at the rate of the moment, and its choice between dense and sparse would be
control flow that tracing cannot follow.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn


def leaf_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Returns the proxy of a call of ``module`` as a whole where ``torch.fx`` is tracing, else None."""
    for arg in args:
        if isinstance(arg, fx.Proxy) and isinstance(arg.tracer, fx.Tracer):
            return arg.tracer.create_proxy("call_module", arg.tracer.path_of_module(module), args, kwargs)
    return None
