"""``ecograph export``: a model as files that ONNX Runtime trains, the sparse backward in the training graph."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ecograph.tools.console import no_effect_noted, note, print_json, stderr, stdout
from ecograph.tools.errors import UserError, one_line, user_errors
from ecograph.tools.shared_options import Drop, PassTexts, Schedule, When

if TYPE_CHECKING:
    from torch import nn


def export(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="package.module:callable, file.py:callable, timm:NAME, torchvision:NAME, hf:NAME or demo:NAME.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="The folder to make.")],
    input: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SHAPE[:DTYPE]",
            help="An example input, such as 8x3x32x32. May be repeated. The first size may vary in training.",
        ),
    ] = None,
    loss: Annotated[
        str, typer.Option(help="cross_entropy, token_cross_entropy, mse, bce, or model: the model returns it.")
    ] = "cross_entropy",
    optimizer: Annotated[str, typer.Option(help="adamw or sgd.")] = "adamw",
    drop: Drop = None,
    schedule: Schedule = None,
    when: When = None,
    passes: PassTexts = None,
    dense: Annotated[bool, typer.Option("--dense", help="Export the model as it is, without a pass.")] = False,
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A state_dict that torch.save wrote; else weights are random.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was exported as JSON.")] = False,
) -> None:
    """Write a model as files that ONNX Runtime trains, with a sparse backward in the training graph.

    Train them in Python with ecograph.export.OrtTrainer, or with ONNX Runtime's training API in C++,
    C# or Java. ecograph inspect FOLDER/training_model.onnx shows what is in them.
    """
    import ecograph
    from ecograph.tools.inputs import example_inputs, parse
    from ecograph.tools.inspect import choose_passes
    from ecograph.tools.onnx_graph import read_training_graph
    from ecograph.tools.spec import find

    options = {"drop": drop, "schedule": schedule, "when": when}
    options = {key: value for key, value in options.items() if value is not None}
    if dense and (options or passes):
        raise UserError("--dense and a pass or its options are both given: leave one out")
    chosen = [] if dense else choose_passes(options, None, passes or [])
    given = [parse(text) for text in input or []]
    with no_effect_noted(), redirect_stdout(sys.stderr), stderr().status("exporting"):
        subject = find(spec)
        model = subject.build()
        if weights is not None:
            _load(model, weights)
        inputs = example_inputs(given or subject.inputs(model), "cpu")
        if inputs is None:
            raise UserError("--input is missing: export needs the shapes of the inputs, such as --input 8x3x32x32")
        with user_errors():
            if chosen:
                ecograph.optimize(model, example_inputs=inputs, passes=chosen)
            try:
                folder = ecograph.export_onnx_training(model, inputs, loss=loss, optimizer=optimizer, path=output)
            except ImportError as error:
                raise UserError(one_line(error)) from error
        exported = read_training_graph(folder / "training_model.onnx")
    if json:
        print_json(exported.to_dict())
    else:
        stdout().print(exported)
    note(f"wrote {output}: train it with ecograph.export.OrtTrainer({str(output)!r})")


def _load(model: nn.Module, path: Path) -> None:
    """Loads weights from a file.

    Raises:
        UserError: where it cannot be read, or does not fit.
    """
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state)
    except (OSError, RuntimeError, pickle.UnpicklingError, TypeError, AttributeError) as error:
        raise UserError(f"--weights {path}: {one_line(error)[:300]}") from error
