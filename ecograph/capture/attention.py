"""``F.multi_head_attention_forward`` as a function that tracing and routing can see into.

torch treats that function as one operation: Dynamo puts a single node in the graph, and a TorchFunctionMode
is handed the whole call. The products inside (the packed projections of ``nn.MultiheadAttention``) stay
hidden. Here the very same code objects are given a second life as functions of this module, where nothing
treats them specially, so both stages see the ``linear`` calls inside. The arithmetic is torch's own,
operation for operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any
from unittest import mock

import torch.nn.functional as F

ORIGINAL: Callable[..., Any] = F.multi_head_attention_forward


def _visible(function: Any, names: dict[str, Any]) -> FunctionType:
    """Returns ``function`` with its code unchanged, but with a file of its own and with ``names`` rebound."""
    code = function.__code__.replace(co_filename=__file__)
    copy = FunctionType(code, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__module__ = __name__
    return copy


def _build() -> FunctionType:
    names = dict(vars(F))
    # Both helpers run linear on slices of the packed weight. The override check would hand the call to a mode
    # again.
    names["has_torch_function"] = lambda tensors: False
    for helper in ("_in_projection_packed", "_in_projection"):
        names[helper] = _visible(names[helper], names)
    return _visible(ORIGINAL, names)


#: The same computation as ``F.multi_head_attention_forward``, open to tracing.
multi_head_attention: Callable[..., Any] = _build()


@contextmanager
def visible() -> Iterator[None]:
    """Within the context, ``F.multi_head_attention_forward`` is the version that tracing sees into."""
    _fill_tables()
    with mock.patch.object(F, "multi_head_attention_forward", multi_head_attention):
        yield


def _fill_tables() -> None:
    """Has torch fill its tables of functions, looked up by name once, while the name means the original."""
    from torch._dynamo import trace_rules
    from torch._dynamo.variables import torch as dynamo_torch
    from torch.overrides import get_overridable_functions, get_testing_overrides

    trace_rules.lookup(ORIGINAL)
    get_testing_overrides()
    get_overridable_functions()
    # Dynamo keeps a copy of the last one, under a private name.
    getattr(dynamo_torch, "get_overridable_functions", get_overridable_functions)()
