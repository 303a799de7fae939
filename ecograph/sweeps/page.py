"""A search in one HTML file that asks for nothing from the network."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecograph.sweeps.result import Sweep


def page(sweep: Sweep, config: str = "") -> str:
    """Returns the page's HTML.

    Args:
        sweep: what is shown.
        config: the best setting, ready to run.

    Raises:
        ValueError: without matplotlib.
    """
    import jinja2
    from markupsafe import Markup

    import ecograph
    from ecograph.sweeps import plots, table

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {"setting": table.setting, "amount": lambda value: table.amount(value, sweep.minimize)}
    text = files("ecograph.sweeps").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(text).render(
        sweep=sweep,
        version=ecograph.__version__,
        rows=sorted(sweep.rows, key=lambda row: (row.cost is None, row.cost or 0.0, row.number)),
        conclusions=table.conclusions(sweep),
        pareto=Markup(plots.svg(plots.pareto(sweep))),
        importance=Markup(plots.svg(plots.importance(sweep))) if sweep.importance else None,
        config=config,
    )
