"""Searching a job: which keys vary, and how; read from the table ``[sweep]`` of its file."""

from ecograph.tools.sweeps.options import Options, read_sweep, targets
from ecograph.tools.sweeps.problem import JobProblem
from ecograph.tools.sweeps.tasks import TasksProblem

__all__ = ["JobProblem", "Options", "TasksProblem", "read_sweep", "targets"]
