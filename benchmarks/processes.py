"""Trainings in processes: each with its own CPU time, and its memory kept, so that a step takes the same anywhere."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import ecograph

HERE = str(Path(__file__).parent)


def begin(threads: int) -> None:
    """Sets a process up. That memory is kept spares a step its page faults, whose number depends on where it lies."""
    torch.set_num_threads(threads)
    ecograph.keep_memory()


@contextmanager
def workers(processes: int, threads: int = 1) -> Iterator[Executor | None]:
    """Gives processes, or None for doing all in this one; leaving early drops what has not begun.

    Args:
        processes: how many.
        threads: of each.
    """
    if processes == 1:
        torch.set_num_threads(threads)
        yield None
        return
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads
    pool = ProcessPoolExecutor(processes, context, initializer=begin, initargs=(threads,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def outcomes(run: Callable[[Any], Any], todo: Sequence[Any], pool: Executor | None) -> Iterator[Any]:
    """Yields what comes of each, as it comes in.

    Args:
        run: a function of a module, given one of them.
        todo: in the order in which they are begun.
        pool: as ``workers`` gave it.
    """
    if pool is None:
        yield from map(run, todo)
        return
    for future in as_completed([pool.submit(run, each) for each in todo]):
        yield future.result()


def elsewhere(run: Callable[[Any], Any], todo: Iterable[Any], threads: int | None = None) -> Iterator[Any]:
    """Yields what comes of each, in order; all are run in one process that is not this one.

    Args:
        run: a function of a module, given one of them.
        todo: what it is given.
        threads: of the process, if not torch's own number; then it keeps its memory, too.
    """
    set_up: dict[str, Any] = {} if threads is None else {"initializer": begin, "initargs": (threads,)}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), **set_up) as pool:
        yield from pool.map(run, todo)


def each_apart(run: Callable[[Any], Any], todo: Iterable[Any], imported: Sequence[str] = ()) -> Iterator[Any]:
    """Yields what comes of each, in order; each is run in a process of its own, which no other has changed.

    Args:
        run: a function of a module, given one of them.
        todo: what it is given.
        imported: modules that take long to import; all processes are forked from one that has done so, and no more.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(imported))
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([HERE, *([path] if path else [])])  # where it looks for modules
    try:
        with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
            yield from pool.map(run, todo)
    finally:
        os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)
