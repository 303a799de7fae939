"""What a batch looks like: how the loop takes it apart, and how the model is called with it."""

from __future__ import annotations

from typing import Literal

from ecograph.loop.program import Program
from ecograph.loop.values import Code, code

Batch = Literal["pair", "args", "kwargs", "dict"]

#: What the inputs of a batch are, where a model has several.
INPUTS_ARE: dict[Batch, type] = {"args": tuple, "kwargs": dict}


def forward(program: Program, batch: Batch) -> None:
    """Call the model and the loss function, in training and in evaluation."""
    texts = {
        "pair": """
            outputs = model(inputs)
            loss = loss_fn(outputs, targets)
        """,
        "args": """
            outputs = model(*inputs)
            loss = loss_fn(outputs, targets)
        """,
        "kwargs": """
            outputs = model(**inputs)
            loss = loss_fn(outputs, targets)
        """,
        "dict": """
            from ecograph.loop.runtime import loss_of
            outputs = model(**batch)
            loss = loss_of(outputs, batch, loss_fn)
        """,
    }
    for slot in ("compute_loss", "evaluate_forward"):
        program.replace(slot, texts[batch])
    # Inside of autocast, so that what it computes again is computed as it was.
    program.insert("check_loss", f"watch.check(loss, {'batch' if batch == 'dict' else 'inputs'})")


def loops(program: Program, batch: Batch, *, checkpointed: bool = False) -> None:
    """Put in the loops over the data.

    Last of all, so that what passes wrapped around a step is inside the loop, and the steps are counted only
    where somebody reads `step`.
    """
    each = """
        for BATCH in BATCHES:
            ...
    """
    each_counted = """
        for step, BATCH in enumerate(BATCHES):
            ...
    """
    each_step = each_counted if program.uses("step") else each
    # A resumed epoch goes on behind the batches it has had.
    loader = "checkpoints.rest_of(train_loader)" if checkpointed else "train_loader"
    names = code("batch") if batch == "dict" else code("inputs, targets")

    program.wrap("evaluate_batch", each, BATCH=names, BATCHES=_batches("loader", batch))
    if program.accumulate == 1:
        program.wrap("step", each_step, BATCH=names, BATCHES=_batches(loader, batch))
        return
    each_numbered = """
        for number, BATCH in enumerate(BATCHES, start=1):
            ...
    """
    each_batch = each_numbered if program.uses("number") else each
    program.wrap("batch", each_batch, BATCH=names, BATCHES=_batches("group", batch))
    groups = code(
        f"grouped({loader}, {program.accumulate})", imports="from ecograph.loop.runtime import grouped"
    )
    program.wrap("step", each_step, BATCH=code("group"), BATCHES=groups)
    program.wrap(
        "step",
        """
        # A group of batches makes one step; the last group may be smaller.
        ...
        """,
    )


def _batches(loader: str, batch: Batch) -> Code:
    """Return the call of the runtime helper that checks a loader's batches and moves them to the device."""
    helper = "batches" if batch == "dict" else "pairs"
    kind = f", inputs_are={INPUTS_ARE[batch].__name__}" if batch in INPUTS_ARE else ""
    return code(f"{helper}({loader}, device{kind})", imports=f"from ecograph.loop.runtime import {helper}")
