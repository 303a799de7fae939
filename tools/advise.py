"""``ecograph advise``: what is free on this machine, for this model."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecograph.tools.console import no_effect_noted, print_json, stdout
from ecograph.tools.errors import UserError, user_errors

if TYPE_CHECKING:
    from torch import nn


def advise(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="package.module:callable, file.py:callable, timm:NAME, torchvision:NAME, hf:NAME or demo:NAME.",
        ),
    ],
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SHAPE[:DTYPE]",
            help="An example input, such as 32x3x32x32 or input_ids=2x16:int64. May be repeated. "
            "Left out: what the library of the model says.",
        ),
    ] = None,
    optimizer: Annotated[str, typer.Option(metavar="NAME", help="Of torch.optim, in any case.")] = "adamw",
    seconds: Annotated[float, typer.Option(help="To spend on measuring, about; compiling comes on top.")] = 60.0,
    by: Annotated[str, typer.Option(help="time or energy: what makes a setting better.")] = "time",
    passes: Annotated[
        list[str] | None,
        typer.Option(
            "--pass",
            metavar="NAME[:OPTION=VALUE,...]",
            help="A pass to try, such as sliceout:rate=0.25. May be repeated. Left out: all, as they are by default.",
        ),
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Try torch.compile, which may take a minute on a CPU.")
    ] = True,
    batches: Annotated[bool, typer.Option("--batches/--no-batches", help="Try other batch sizes.")] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="Of torch to begin with.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print every figure as JSON.")] = False,
) -> None:
    """Measure what makes a training step cheaper here: switches of torch first, which are free, then passes.

    Memory format, bf16, torch.compile, threads, a fused optimizer, ecograph's passes and batch sizes are timed in turn,
    in about a minute. The model gets random weights and random inputs; its loss is a stand-in that costs next to
    nothing.
    """
    import torch

    from ecograph.advice import advise as measure
    from ecograph.tools.passes import find_pass
    from ecograph.tools.ranks import find_device
    from ecograph.tools.spec import find
    from ecograph.tools.training.optimizers import OPTIMIZERS

    if optimizer.lower() not in OPTIMIZERS:
        raise UserError(f"--optimizer {optimizer!r}: give one of {', '.join(sorted(OPTIMIZERS))}")
    chosen = [find_pass(text) for text in passes] if passes else None
    subject = find(spec)
    if threads is not None:
        torch.set_num_threads(threads)
    with redirect_stdout(sys.stderr), no_effect_noted():
        torch.manual_seed(0)
        model = subject.build().to(find_device(device))
        batch = _batch(spec, model, input or [], subject.inputs(model))
        with user_errors():
            found = measure(
                model,
                batch,
                optimizer=OPTIMIZERS[optimizer.lower()],
                passes=chosen,
                seconds=seconds,
                by=by,  # type: ignore[arg-type]  # checked there
                compile=compile,
                batches=batches,
            )
    if json:
        print_json(found.to_dict())
    else:
        stdout().print(found)


def _batch(spec: str, model: nn.Module, given: list[str], known: Any) -> Any:
    """Returns example inputs, their numbers with a fraction drawn at random: zeros might take another time."""
    import torch
    from torch.utils import _pytree as pytree

    from ecograph.tools.inputs import example_inputs, parse

    device = next((str(tensor.device) for tensor in (*model.parameters(), *model.buffers())), "cpu")
    inputs = example_inputs([parse(text) for text in given] or list(known), device)
    if inputs is None:
        raise UserError(f"SPEC {spec!r} does not say what inputs fit: give --input, such as --input 32x3x32x32")
    return pytree.tree_map_only(torch.Tensor, lambda t: torch.randn_like(t) if t.is_floating_point() else t, inputs)
