"""The loop's own options: each a function that puts its statements into the program, as a pass would."""

from __future__ import annotations

import keyword
from collections.abc import Callable
from typing import Any, Literal

from ecograph.loop.data import Batch
from ecograph.loop.program import Program
from ecograph.loop.values import code


def amp(program: Program, precision: Literal["bf16", "fp16"]) -> None:
    """Run forward passes in low precision; for fp16, scale the loss so that small gradients survive."""
    dtype = code({"bf16": "torch.bfloat16", "fp16": "torch.float16"}[precision])
    for slot in ("forward", "evaluate_forward"):
        program.wrap(
            slot,
            """
            with torch.autocast(device.type, dtype=DTYPE):
                ...
            """,
            DTYPE=dtype,
        )
    if precision == "fp16":
        program.insert("before_training", "scaler = torch.amp.GradScaler(device.type)")
        program.substitute("backward", loss="scaler.scale(loss)")
        program.replace(
            "optimizer_step",
            """
            # Leaves the step out if a gradient overflowed.
            scaler.step(optimizer)
            scaler.update()
            """,
        )


def unscale_gradients(program: Program) -> None:
    """See to it that gradients have their true size before the optimizer step.

    For whatever reads or changes gradients there: with fp16 they are still multiplied by the loss scale.
    """
    if program.amp == "fp16" and program.is_empty("unscale"):
        program.insert(
            "unscale",
            """
            # Gradients at their true size again, without the scale of the loss.
            scaler.unscale_(optimizer)
            """,
        )


def clip(program: Program, max_norm: float) -> None:
    """Clip the norm of the gradient before the optimizer sees it."""
    unscale_gradients(program)
    program.insert(
        "before_optimizer_step",
        "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=MAX_NORM)",
        MAX_NORM=max_norm,
    )


def accumulate(program: Program, batches: int) -> None:
    """Take one optimizer step per group of batches; `data.loops` puts in the loop over a group."""
    program.steps_per_epoch = code(f"math.ceil(len(train_loader) / {batches})", imports="import math")
    program.substitute("backward", loss="loss / len(group)")
    program.move("after_batch", into="batch")


def metric(program: Program, function: Callable[..., Any] | Literal["accuracy"], batch: Batch) -> None:
    """Average a metric over the samples of each epoch, in training and in evaluation."""
    if function == "accuracy":
        name = "accuracy"
        labels = "outputs.logits, batch['labels']" if batch == "dict" else "outputs, targets"
        value = code(f"accuracy({labels})", imports="from ecograph.loop.runtime import accuracy")
        evaluate = "val_loss, VAL = evaluate(model, loss_fn, val_loader, device)"
    else:
        name = getattr(function, "__name__", "metric")
        name = name if name.isidentifier() and not keyword.iskeyword(name) and name != "loss" else "metric"
        value = code(f"metric(outputs, {program.targets})")
        evaluate = "val_loss, VAL = evaluate(model, loss_fn, val_loader, device, metric=metric)"
        program.argument("metric", function)
        program.argument("metric", function, function="evaluate")
    train, val, targets = code(f"train_{name}"), code(f"val_{name}"), code(program.targets)

    program.insert("before_epoch", "MEAN = Mean()", MEAN=train)
    program.insert(
        "after_batch", "MEAN.add(VALUE, batch_size(TARGETS))", MEAN=train, VALUE=value, TARGETS=targets
    )
    program.record(f"train_{name}", f"train_{name}.mean()")

    program.insert("before_evaluate_batches", "VAL = Mean()", VAL=val)
    program.insert(
        "after_evaluate_batch", "VAL.add(VALUE, batch_size(TARGETS))", VAL=val, VALUE=value, TARGETS=targets
    )
    program.replace("evaluate_result", "return val_loss.mean(), VAL.mean()", VAL=val)
    program.replace("no_validation", "val_loss = VAL = None", VAL=val)
    program.replace("evaluate", evaluate, VAL=val)
    program.record(f"val_{name}", f"val_{name}")


def lr_step(program: Program, when: Literal["epoch", "step", "val_loss"]) -> None:
    """Advance the learning-rate scheduler, if there is one."""
    program.lr_step = when
    slot = "after_optimizer_step" if when == "step" else "after_epoch"
    text = """
        with slot("lr_step"):
            if lr_scheduler is not None:
                lr_scheduler.step()
    """
    plateau = """
        with slot("lr_step"):
            if lr_scheduler is not None:
                lr_scheduler.step(val_loss)
    """
    program.insert(slot, plateau if when == "val_loss" else text)


def progress(program: Program) -> None:
    """Show a progress bar, where there is a terminal."""
    program.wrap(
        "training",
        """
        from ecograph.loop.runtime import Progress
        with Progress(epochs, train_loader) as progress:
            ...
        """,
    )
    program.insert("after_batch", "progress.update(epoch, loss)")
