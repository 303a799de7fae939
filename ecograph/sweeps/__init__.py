"""The setting that reaches a target for the least energy, time or money.

Optuna searches, the loop's meter measures. `sweep.py` is what users call; `functions.py` makes trainings of their
functions (``ecograph sweep`` makes them of a job); both are a `Problem`. `study.py` keeps the search in a storage,
`search.py` is what a worker does, `attempt.py` is one training; `probe.py` looks at batch sizes and learning rates
before. `result.py` reads a study; `table.py`, `plots.py` and `page.py` show it. Of several targets, `tally.py` knows
how far the tasks are, and `multitask.py` makes a model for each (`apart.py`) or one for all.
"""

from ecograph.sweeps.problem import Problem, Training
from ecograph.sweeps.result import Row, Sweep
from ecograph.sweeps.search import Budget
from ecograph.sweeps.space import Choice, Range, Space, parse_space
from ecograph.sweeps.sweep import run, sweep
from ecograph.sweeps.target import Target

__all__ = [
    "Budget",
    "Choice",
    "Problem",
    "Range",
    "Row",
    "Space",
    "Sweep",
    "Target",
    "Training",
    "parse_space",
    "run",
    "sweep",
]
