"""``ecograph loop``: a training loop to read, change and check in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ecograph.tools.console import note, stdout
from ecograph.tools.errors import UserError, user_errors
from ecograph.tools.passes import find_pass


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
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
    annotate: Annotated[bool, typer.Option(help="Say in comments which pass put in what.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write to this file in place of the screen.")
    ] = None,
) -> None:
    """Print the source of a training loop, with what was asked for and nothing else."""
    from ecograph.loop import TrainingLoop

    chosen = [find_pass(text) for text in passes or []]
    with user_errors():
        made = TrainingLoop(
            epochs,
            passes=chosen,
            amp=amp,  # type: ignore[arg-type]  # TrainingLoop checks it, and names the choices
            clip=clip,
            accumulate=accumulate,
            metric=metric,  # type: ignore[arg-type]
            lr_step=lr_step,  # type: ignore[arg-type]
            batch=batch,  # type: ignore[arg-type]
            progress=progress,
            annotate=annotate,
        )
    if output is not None:
        _save(made, output)
        return
    console = stdout()
    if console.is_terminal:
        from rich.syntax import Syntax

        console.print(Syntax(made.source.rstrip("\n"), "python", theme="ansi_dark", background_color="default"))
    else:
        print(made.source, end="")


def _save(made: Any, output: Path) -> None:
    try:
        made.eject(output)
    except OSError as error:
        raise UserError(f"--output {output}: {error.strerror}") from error
    note(f"wrote {output}")
