"""The loop's own options: each a function that puts its statements into the program, as a pass would."""

from __future__ import annotations

import keyword
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ecograph.loop.callbacks import Callback
from ecograph.loop.data import Batch
from ecograph.loop.program import Program
from ecograph.loop.stop import Stop
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
        program.keep("scaler")
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
    program.steps_per_epoch = code(
        f"steps_in(train_loader, accumulate={batches})", imports="from ecograph.loop.runtime import steps_in"
    )
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
        kind = code("Callable[..., Any]")
        program.argument("metric", function, annotation=kind)
        program.argument("metric", function, annotation=kind, function="evaluate")
    train, val, targets = code(f"train_{name}"), code(f"val_{name}"), code(program.targets)

    program.insert("before_epoch", "MEAN = Mean()", MEAN=train)
    program.meters.append(f"train_{name}")
    program.insert(
        "after_batch", "MEAN.add(VALUE, batch_size(TARGETS))", MEAN=train, VALUE=value, TARGETS=targets
    )
    program.record(f"train_{name}", f"train_{name}.mean()")

    program.insert("before_evaluate_batches", "VAL = Mean()", VAL=val)
    program.insert("after_evaluate_batch", "VAL.add(VALUE, SIZE)", VAL=val, VALUE=value, SIZE=program.evaluated)
    if program.distributed:
        program.insert("after_train_epoch", "MEAN.all_reduce(device)", MEAN=train)
        program.insert("after_evaluate_batches", "VAL.all_reduce(device)", VAL=val)
    program.returns("evaluate", "tuple[float | None, float | None]")
    program.replace("evaluate_result", "return val_loss.mean(), VAL.mean()", VAL=val)
    program.replace("no_validation", "val_loss = VAL = None", VAL=val)
    program.replace("evaluate", evaluate, VAL=val)
    program.record(f"val_{name}", f"val_{name}")


def lr_step(program: Program, when: Literal["epoch", "step", "val_loss"]) -> None:
    """Advance the learning-rate scheduler, if there is one."""
    program.lr_step = when
    slot = "after_optimizer_step" if when == "step" else "after_epoch"
    program.insert(slot, 'with slot("lr_step"):\n' + textwrap.indent(_lr_step(when), "    "))


def lr_step_if(program: Program, condition: str) -> None:
    """Advance the learning-rate scheduler only where `condition` holds too, such as "trained"."""
    program.replace("lr_step", _lr_step(program.lr_step, condition))


def _lr_step(when: Literal["epoch", "step", "val_loss"], *conditions: str) -> str:
    value = "val_loss" if when == "val_loss" else ""
    needed = "lr_scheduler", *filter(None, [value])  # there need not be a scheduler, nor a validation in every epoch
    test = " and ".join([*(f"{name} is not None" for name in needed), *conditions])
    return f"if {test}:\n    lr_scheduler.step({value})"


def progress(program: Program) -> None:
    """Show a progress bar, where there is a terminal."""
    shown = ", shown=ranks.first" if program.distributed else ""
    program.wrap(
        "training",
        f"""
        from ecograph.loop.runtime import Progress
        with Progress(epochs, train_loader{shown}) as progress:
            ...
        """,
    )
    program.insert("after_batch", "progress.update(epoch, loss)")


def compile_model(program: Program) -> None:
    """Compile the model in place; its state_dict keeps its keys."""
    program.insert("before_training", "model.compile()")


def ema(program: Program, decay: float) -> None:
    """Average the weights over the steps; the average is what is validated, and what training ends with."""
    average = f"get_ema_multi_avg_fn({decay!r})"
    if program.distributed == "fsdp":
        average = f"of_parts({average})"
        program.insert("before_training", "from ecograph.loop.runtime import of_parts")
    program.insert(
        "before_training",
        f"""
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        # A moving average of the weights: what is evaluated, and what the model ends with.
        averaged = AveragedModel(model, multi_avg_fn={average}, use_buffers=True)
        """,
    )
    program.keep("averaged")
    program.insert("after_optimizer_step", "averaged.update_parameters(model)")
    program.substitute("evaluate", model="averaged")
    program.insert("after_training", "model.load_state_dict(averaged.module.state_dict())")


def stop(program: Program, condition: Stop) -> None:
    """End training after the epoch in which a value reaches its target."""
    value = condition.name
    if value == "train_loss":
        value = "mean_loss"
        program.insert("after_epoch", "mean_loss = train_loss.mean()")
    program.insert("after_epoch", f"reached = {value} is not None and {condition.of(value)}")
    program.insert(
        "stop",
        """
        if reached:
            break
        """,
    )


def log(program: Program, path: str) -> None:
    """Write the history to a file after each epoch, or to TensorBoard."""
    if path.endswith((".csv", ".jsonl")):
        save = "history.save(PATH)"
        save = f"if ranks.first:\n    {save}" if program.distributed else save
        program.insert("epoch_is_complete", save, PATH=path)
        return
    writes = ", writes=ranks.first" if program.distributed else ""
    program.insert(
        "before_training",
        f"""
        from ecograph.loop.runtime import TensorBoard
        board = TensorBoard(PATH, history{writes})
        """,
        PATH=path,
    )
    program.wrap(
        "training",
        """
        with board:
            ...
        """,
    )
    program.insert("epoch_is_complete", "board.write(history[-1])")


def callbacks(program: Program, each: Sequence[Callback]) -> None:
    """Tell the user's own objects what happens when."""
    kind = code("Iterable[Callback]", imports="from ecograph.loop.runtime import Callback")
    program.argument("callbacks", tuple(each), annotation=kind, default=code("()"))
    program.insert(
        "before_training",
        """
        from ecograph.loop.runtime import Callbacks
        told = Callbacks(callbacks)
        """,
    )
    program.keep("told", each_rank=True)
    program.insert("before_epoch", "told.on_epoch_start(epoch, model)")
    program.insert("after_step", "told.on_step_end(epoch, model, loss)")
    program.insert("epoch_is_complete", "told.on_epoch_end(epoch, model, history[-1])")


def checkpoint(program: Program, folder: str, every: int | None, options: dict[str, object]) -> None:
    """Write checkpoints, and go on from the last one; after everything else that is said in these slots."""
    rest = f", every={every}" if every is not None else ""
    if program.distributed:
        own = [name for name in program.kept if name in program.kept_of_each_rank]
        rest += ", ranks=ranks" + (f", each_rank={own}" if own else "")
    program.argument("resume", False, annotation=code("bool"), default=code("False"))
    state = ", ".join(f"{name}={name}" for name in program.kept)
    meters = ", ".join(f"{name}={name}" for name in program.meters)
    program.insert(
        "before_training",
        f"""
        from ecograph.loop.runtime import Checkpoints

        # Holds all that the rest of training depends on; resume=True goes on where it was.
        checkpoints = Checkpoints(
            FOLDER{rest}, state=dict({state}), options=OPTIONS, loader=train_loader, resume=resume
        )
        """,
        FOLDER=folder,
        OPTIONS=options,
    )
    program.wrap(
        "training",
        """
        with checkpoints:
            ...
        """,
    )
    program.insert("before_epoch", f"checkpoints.begin_epoch(epoch, {meters})")
    program.insert("after_step", "checkpoints.step()")
    last = "last=reached" if program.uses("reached") else ""
    program.insert("epoch_is_complete", f"checkpoints.end_epoch({last})")
