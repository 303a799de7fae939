"""The front door: measure what is free on this machine, for this model."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ecograph import registry
from ecograph.advice.advice import Advice
from ecograph.advice.search import Report, Search
from ecograph.advice.subject import make_subject
from ecograph.capture.quiet import untouched_random_state
from ecograph.guards import check_model
from ecograph.rewrite.passes import GroupPass, Pass

#: The step's optimizer where nobody says; its learning rate moves weights by next to nothing.
ADAMW = partial(torch.optim.AdamW, lr=1e-6)

#: What was found out about a model, for ``optimize(recipe="auto")``.
_LAST: WeakKeyDictionary[nn.Module, Advice] = WeakKeyDictionary()


def advise(
    model: nn.Module,
    example_inputs: Any,
    loss_fn: Callable[..., Tensor] | None = None,
    *,
    targets: Any = None,
    optimizer: Callable[..., Optimizer] = ADAMW,
    passes: Sequence[Any] | None = None,
    seconds: float = 60.0,
    by: Literal["time", "energy"] = "time",
    compile: bool = True,
    batches: bool = True,
    progress: bool = True,
) -> Advice:
    """Measures which switches make a training step of ``model`` cheaper on this machine.

    Memory format, lower precision, ``torch.compile``, threads, a fused optimizer, ecograph's passes and other batch
    sizes are measured in turn, beside plain training, on copies of the model; the model and all random state stay as
    they are.

    Args:
        model: a plain module, on the device that it will be trained on.
        example_inputs: a batch, in any form that ``optimize`` takes. Values count where the model's time depends on
            them.
        loss_fn: from what the model returns to one number; with ``targets``, of (outputs, targets). None: the model's
            own loss where it returns one, or a stand-in that costs next to nothing.
        targets: of the batch, for ``loss_fn``.
        optimizer: a class, or a ``functools.partial`` of one, that is given the parameters.
        passes: those to try, each by itself; None for all that rewrite models, at their default strength.
        seconds: to spend on measuring, about. Compiling, where it is tried, comes on top.
        by: what makes a setting better: ``"time"`` or ``"energy"``.
        compile: whether to try ``torch.compile``, which may take a minute by itself on a CPU.
        batches: whether to try other batch sizes.
        progress: show a progress bar, on a terminal.

    Returns:
        The advice; ``print(advice)`` with rich shows a table, ``advice.code`` are the lines that switch the best safe
        setting on. ``ecograph.optimize(model, example_inputs=..., recipe="auto")`` applies it.

    Raises:
        ValueError: for arguments that cannot be measured; the message names the argument and the fix.
    """
    if by not in ("time", "energy"):
        raise ValueError(f"by={by!r}: give 'time' or 'energy'")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise ValueError(f"seconds={seconds!r}: give a number above 0, such as 60")
    chosen = _passes(passes)
    return measured(
        model,
        example_inputs,
        loss_fn,
        targets=targets,
        optimizer=optimizer,
        progress=progress,
        passes=[[each] for each in chosen],
        seconds=seconds,
        by=by,
        compiled=compile,
        batches=batches,
        approximate=bool(chosen) or batches,
    )


def measured(
    model: nn.Module,
    example_inputs: Any,
    loss_fn: Callable[..., Tensor] | None = None,
    *,
    targets: Any = None,
    optimizer: Callable[..., Optimizer] = ADAMW,
    progress: bool = False,
    **options: Any,
) -> Advice:
    """Runs a search, whose ``options`` are those of :class:`Search`, and remembers what came of it for the model."""
    started = time.perf_counter()
    check_model(model, says="advise")
    with untouched_random_state(model), torch.enable_grad():
        subject = make_subject(model, example_inputs, loss_fn, targets, optimizer)
        bar, report = _progress(progress)
        with bar:
            search = Search(subject, report=report, **options)
            rows = search.run()
    found = Advice(
        model=type(model).__name__,
        device=subject.device.type,
        batch=subject.batch,
        optimizer=subject.optimizer_name,
        rows=rows,
        exact=search.best("exact"),
        best=search.best("near-exact"),
        seconds=time.perf_counter() - started,
        by=search.by,
        faults=search.faults,
    )
    _LAST[model] = found
    return found


def last(model: nn.Module) -> Advice | None:
    """Returns what was found out about this very model, if anything."""
    return _LAST.get(model)


def _passes(passes: Sequence[Any] | None) -> list[Any]:
    if passes is None:
        kinds = [registry.find(name) for name in registry.names()]
        return [kind() for kind in kinds if hasattr(kind, "match") or hasattr(kind, "choose")]  # not those of the loop
    if isinstance(passes, (str, bytes)) or not isinstance(passes, Sequence):
        raise ValueError(f"passes={passes!r}: give a list, such as [ecograph.passes.SparseBackward()]")
    chosen = [registry.find(each)() if isinstance(each, str) else each for each in passes]
    for each in chosen:
        if isinstance(each, type) or not isinstance(each, (Pass, GroupPass)):
            raise ValueError(
                f"{each!r} in passes does not rewrite a model: give passes such as SparseBackward(drop=0.8)"
            )
    return chosen


def _progress(shown: bool) -> tuple[AbstractContextManager[Any], Report]:
    """Returns a progress display on stderr and what tells it how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not shown or not (console.is_terminal or console.is_jupyter) or sys.stderr is None:
        return nullcontext(), lambda text, share: None
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    # Drawn between blocks, never by a thread of its own: that would be in the times.
    bar = Progress(*columns, console=console, transient=True, auto_refresh=False)
    task = bar.add_task("measuring", total=1.0)

    def report(text: str, share: float) -> None:
        bar.update(task, description=text, completed=share)
        bar.refresh()

    return bar, report
