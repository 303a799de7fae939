"""``python train_loop.py MODEL DATA``: a generated loop as a program of its own."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecograph.tools import data, emitted, ranks, running
from ecograph.tools.console import finite, note, print_json, stdout
from ecograph.tools.data.loaders import BATCH_SIZE, Batching
from ecograph.tools.errors import UserError
from ecograph.tools.passes import find_pass
from ecograph.tools.spec import FORMS
from ecograph.tools.training import Setup, make_ready
from ecograph.tools.training.errors import training_errors
from ecograph.tools.training.kinds import for_model
from ecograph.tools.training.losses import LOSSES
from ecograph.tools.training.schedules import WITHOUT_OPTIONS
from ecograph.tools.training.table import table_of
from ecograph.tools.training.weights import check_place, save_weights

if TYPE_CHECKING:
    from ecograph.loop import History

#: The one argument of ``train`` that the command line can give.
RESUME = "resume"

Train = Callable[..., "History"]


def main(train: Train, arguments: Sequence[str] | None = None) -> None:
    """Runs the loop of a file as a program, and exits.

    Args:
        train: the function of the file.
        arguments: those of the command line, where not given.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.command(epilog=data.epilog("DATA"))(_command(train))
    sys.exit(running.run(app, arguments, Path(sys.argv[0]).name))


def _command(train: Train) -> Callable[..., None]:
    """Returns the command; it has ``--resume`` where the loop writes checkpoints."""

    def command(
        model: Annotated[str, typer.Argument(metavar="MODEL", help=f"{FORMS}.")],
        dataset: Annotated[str, typer.Argument(metavar="DATA", help="A data set: see below.")],
        loss: Annotated[
            str | None, typer.Option(help=f"{', '.join(LOSSES)}, or file.py:function. Left out: what fits the data.")
        ] = None,
        optimizer: Annotated[str, typer.Option(help="A class of torch.optim, or file.py:name.")] = "adamw",
        lr: Annotated[float | None, typer.Option(help="Learning rate. Left out: the optimizer's own.")] = None,
        weight_decay: Annotated[float | None, typer.Option(help="Left out: the optimizer's own.")] = None,
        momentum: Annotated[float | None, typer.Option(help="For optimizers that have it.")] = None,
        lr_schedule: Annotated[
            str, typer.Option(help=f"{', '.join(WITHOUT_OPTIONS)}: over the whole training; as often as the file says.")
        ] = "none",
        batch_size: Annotated[int | None, typer.Option(min=1, help=f"Left out: {BATCH_SIZE}.")] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="Use at most so many samples.")] = None,
        passes: Annotated[
            list[str] | None,
            typer.Option(
                "--pass",
                metavar="NAME[:OPTION=VALUE,...]",
                help="A pass that rewrites the model, such as sparse_backward:drop=0.5. May be repeated.",
            ),
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="Of weights, order and all that is random.")] = 0,
        device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
        output: Annotated[Path | None, typer.Option("--output", "-o", help="Save the state_dict to this file.")] = None,
        resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print the history as JSON.")] = False,
    ) -> None:
        _refuse_what_no_text_can_say(train)
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        setup = Setup(
            model=model,
            data=dataset,
            batching=Batching(batch_size, limit),
            loss=loss,
            optimizer=optimizer,
            optimizer_options={name: value for name, value in options.items() if value is not None},
            schedule=lr_schedule,
            passes=_passes(train, passes or []),
            seed=seed,
            device=device,
        )
        course = emitted.course_of(train)
        option = "make one with `ecograph loop --distributed ddp`"
        ranks.check_started(distributed=course.distributed, option=option, arguments=sys.argv[1:])
        if output is not None and ranks.is_main():
            check_place(output, "--output")
        with redirect_stdout(sys.stderr):  # what the user's code prints is no part of the result
            ready = make_ready(setup, course)
            keep = "a loop made with `ecograph loop --checkpoint FOLDER` can be gone on with"
            with training_errors(_again(resume), keep=keep):
                history = train(*ready, **({RESUME: resume} if RESUME in emitted.arguments(train) else {}))
        if output is not None:
            save_weights(ready.model, output)
        if json:
            print_json(finite(history.to_dict()))
        else:
            stdout().print(table_of(history))
        if output is not None:
            note(f"wrote {output}")

    command.__doc__ = f"Train MODEL on DATA with the loop of {Path(train.__globals__['__file__']).name}.\n\n" + (
        "Its epochs and all that it does are in the file: change them there."
    )
    if RESUME not in emitted.arguments(train):
        signature = inspect.signature(command, eval_str=True)
        left = [each for each in signature.parameters.values() if each.name != RESUME]
        command.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        del command.__annotations__[RESUME]
    return command


def _refuse_what_no_text_can_say(train: Train) -> None:
    """Raises UserError for a loop that is given objects, such as a metric function or callbacks."""
    needed = [name for name in emitted.arguments(train) if name != RESUME]
    if needed:
        place = Path(train.__globals__["__file__"])
        raise UserError(
            f"train() of {place.name} takes {' and '.join(needed)}, which a command line cannot give: write "
            f"`from {place.stem} import train` in a program of your own, and call it with them"
        )


def _passes(train: Train, texts: Sequence[str]) -> list[Any]:
    """Returns the passes for the model.

    Raises:
        UserError: for a pass that belongs into the loop; and for none at all, where the loop schedules some.
    """
    passes = [find_pass(text) for text in texts]
    for each, text in zip(passes, texts, strict=True):
        if not for_model([each]):
            raise UserError(
                f"--pass {text!r} belongs into the loop, whose text is there already: make one with it, "
                f"ecograph loop --pass {text}"
            )
    if emitted.needs_rates(train) and not passes:
        raise UserError(
            "this loop schedules passes that rewrite the model: give --pass, such as --pass sparse_backward:drop=0.8; "
            "the head of the file says with which it was made"
        )
    return passes


def _again(resumed: bool) -> str:
    """Returns the command line that goes on."""
    return ranks.command(*sys.argv[1:], *([] if resumed else ["--resume"]))
