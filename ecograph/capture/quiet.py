"""Capture leaves no trace: not in the random state, not in Dynamo's caches, not on the screen."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any

import numpy as np
import torch


def first_line(error: BaseException) -> str:
    """Returns the first line of what an exception says, short enough for a table."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


@contextmanager
def untouched_random_state() -> Iterator[None]:
    """Puts Python's, NumPy's and torch's random states back as they were."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def silent() -> Iterator[None]:
    """Keeps the warnings and log lines of tracing off the user's screen; what matters of them is in the result."""
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

    Dynamo keeps what it compiles with the code object it started from: the recorder's own entry function and, after a
    graph break, functions of the user's model, which another instance of that model may be using compiled.
    """
    from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list, reset_code
    from torch._dynamo.convert_frame import input_codes
    from torch._dynamo.guards import DeletedGuardManagerWrapper

    def entries() -> dict[CodeType, list[Any]]:
        codes = [code for ref in list(input_codes.seen) if (code := ref()) is not None]
        return {code: list(_debug_get_cache_entry_list(code)) for code in codes}

    before = {code: {id(entry.guard_manager) for entry in kept} for code, kept in entries().items()}
    try:
        yield
    finally:
        for code, kept in entries().items():
            if not before.get(code):
                reset_code(code)
                continue
            for entry in kept:
                manager = entry.guard_manager
                if id(manager) not in before[code] and manager.extra_state is not None:
                    manager.extra_state.invalidate(entry, DeletedGuardManagerWrapper("ecograph's capture is over"))
