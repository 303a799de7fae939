"""``ecograph loop``: a training loop to read, change and check in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ecograph.tools.console import no_effect_noted, note, print_python
from ecograph.tools.errors import UserError, user_errors
from ecograph.tools.pass_options import choose, with_pass_options


@with_pass_options
def loop(
    epochs: Annotated[int, typer.Option(help="How often to go through the training data.")] = 30,
    passes: Annotated[
        list[str] | None,
        typer.Option(
            "--pass",
            metavar="NAME[:OPTION=VALUE,...]",
            help="A pass to put in, such as sparse_backward:drop=0.5,schedule=constant. May be repeated.",
        ),
    ] = None,
    amp: Annotated[str | None, typer.Option(help="bf16 or fp16: forward passes in low precision.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradient.")] = None,
    accumulate: Annotated[int, typer.Option(help="Batches per optimizer step.")] = 1,
    metric: Annotated[str | None, typer.Option(help="accuracy: measure it beside the loss.")] = None,
    lr_step: Annotated[
        str, typer.Option(help="When the learning-rate scheduler advances: epoch, step or val_loss.")
    ] = "epoch",
    batch: Annotated[
        str, typer.Option(help="What a batch is, and how the model is called: pair, args, kwargs or dict.")
    ] = "pair",
    distributed: Annotated[
        str | None, typer.Option(help="ddp or fsdp: train in several processes, which torchrun starts.")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the model with torch.compile.")] = False,
    ema: Annotated[
        float | None, typer.Option(help="Decay of an average of the weights, such as 0.999: it is what is kept.")
    ] = None,
    val_every: Annotated[int, typer.Option(help="Evaluate after every so many epochs, and after the last.")] = 1,
    stop: Annotated[
        str | None, typer.Option(help="End when a value reaches its target, such as 'val_accuracy >= 0.98'.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A folder for checkpoints: the loop can be stopped and gone on with.")
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Optimizer steps between checkpoints, beside those after each epoch.")
    ] = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(help="Write the history to a file .csv or .jsonl, or for TensorBoard a folder. May be repeated."),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
    annotate: Annotated[bool, typer.Option(help="Say in comments which pass put in what.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file in place of the screen.")
    ] = None,
) -> None:
    """Print the source of a training loop, with what was asked for and nothing else.

    The file can be run: python FILE --help says how. Or import its train().
    """
    from ecograph.loop import TrainingLoop

    chosen = choose(passes)
    with user_errors(), no_effect_noted():
        made = TrainingLoop(
            epochs,
            passes=chosen,
            amp=amp,  # type: ignore[arg-type]  # TrainingLoop checks it, and names the choices
            clip=clip,
            accumulate=accumulate,
            metric=metric,  # type: ignore[arg-type]
            lr_step=lr_step,  # type: ignore[arg-type]
            batch=batch,  # type: ignore[arg-type]
            distributed=distributed,  # type: ignore[arg-type]
            compile=compile,
            ema=ema,
            val_every=val_every,
            stop=stop,
            checkpoint=checkpoint and checkpoint.as_posix(),
            checkpoint_every=checkpoint_every,
            log=_paths(log or []),
            progress=progress,
            annotate=annotate,
        )
    if output is None:
        print_python(made.source)
        return
    try:
        made.eject(output)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}") from error
    note(f"wrote {output}")


def _paths(paths: Sequence[Path]) -> str | list[str] | None:
    """Returns paths as the loop's option ``log`` is written by hand, the same on every system."""
    texts = [each.as_posix() for each in paths]
    return texts if len(texts) > 1 else texts[0] if texts else None
