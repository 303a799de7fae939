"""Capture leaves no trace: not in the random state, not in Dynamo's caches, not on the screen."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import CodeType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn


def first_line(error: BaseException | str) -> str:
    """Returns the first line of what an exception (or a reason) says, short enough for a table."""
    lines = str(error).strip().splitlines()
    if isinstance(error, str):
        return lines[0][:160] if lines else "no reason given"
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


@contextmanager
def untouched_random_state(model: nn.Module) -> Iterator[None]:
    """Puts the random states of Python, NumPy and torch (CPU and the model's devices) back."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = {t.device for t in (*model.parameters(), *model.buffers())} - {torch.device("meta")}
    with ExitStack() as stack:
        for kind in {device.type for device in devices} | {"cpu"}:
            # Forking no device of a kind forks the CPU's generator alone, and starts no accelerator.
            same = [] if kind == "cpu" else [device for device in devices if device.type == kind]
            stack.enter_context(torch.random.fork_rng(devices=same, device_type="cuda" if kind == "cpu" else kind))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def silent() -> Iterator[None]:
    """Keeps the warnings and log lines of tracing off the screen; what matters is in the result."""
    loggers = [logging.getLogger(name) for name in ("torch._dynamo", "torch._subclasses", "torch.fx")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def code_caches_restored() -> Iterator[None]:
    """Removes what Dynamo compiled within the context from the caches of the user's code, and nothing else.

    Dynamo keeps what it compiles with the code object it started from: the recorder's own entry function and,
    after a graph break, functions of the user's model, which another instance of that model may be using
    compiled.
    """
    from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list, reset_code
    from torch._dynamo.convert_frame import input_codes
    from torch._dynamo.eval_frame import cached_backends
    from torch._dynamo.guards import DeletedGuardManagerWrapper
    from torch._dynamo.utils import CleanupHook, CleanupManager, counters, graph_break_reasons

    def entries() -> dict[CodeType, list[Any]]:
        codes = [code for ref in list(input_codes.seen) if (code := ref()) is not None]
        return {code: list(_debug_get_cache_entry_list(code)) for code in codes}

    # Kept backends would keep the recorder alive, and with it every graph. So would the functions that Dynamo puts into
    # the modules of the user's code after a graph break, for as long as the process lives.
    kept_codes = CleanupManager.instance
    backends, codes, reasons = set(cached_backends), set(kept_codes.values), len(graph_break_reasons)
    installed: list[tuple[dict[str, Any], str]] = []
    install = CleanupHook.create

    def noting(scope: dict[str, Any], name: str, value: Any) -> CleanupHook:
        installed.append((scope, name))
        return install(scope, name, value)

    counted = {name: counter.copy() for name, counter in counters.items()}
    before = {code: {id(entry.guard_manager) for entry in kept} for code, kept in entries().items()}
    try:
        with mock.patch.object(CleanupHook, "create", noting):
            yield
    finally:
        counters.clear()
        counters.update(counted)
        del graph_break_reasons[reasons:]
        for key in set(cached_backends) - backends:
            del cached_backends[key]
        for key in set(kept_codes.values) - codes:
            del kept_codes.values[key], kept_codes.refs[key]
        for scope, name in installed:
            scope.pop(name, None)
        for code, kept in entries().items():
            if not before.get(code):
                reset_code(code)
                continue
            for entry in kept:
                manager = entry.guard_manager
                if id(manager) not in before[code] and manager.extra_state is not None:
                    manager.extra_state.invalidate(entry, DeletedGuardManagerWrapper("ecograph's capture is over"))
