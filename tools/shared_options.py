"""Options of the commands that optimize a model: what is done to it."""

from __future__ import annotations

from typing import Annotated

import typer

Drop = Annotated[float | None, typer.Option(help="Share of output channels dropped.")]
Schedule = Annotated[str | None, typer.Option(help="alternate, constant, linear, cosine or bar.")]
When = Annotated[str | None, typer.Option(help="pays: only layers where it saves time. always: all that can be.")]
PassTexts = Annotated[
    list[str] | None,
    typer.Option(
        "--pass",
        metavar="NAME[:OPTION=VALUE,...]",
        help="A pass, such as sparse_backward:drop=0.5, in place of the options above. May be repeated.",
    ),
]
