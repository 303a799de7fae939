"""Searching a job: which keys vary, and how; read from the table ``[sweep]`` of its file."""

from ecograph.tools.sweeps.options import Options, read_sweep
from ecograph.tools.sweeps.problem import JobProblem

__all__ = ["JobProblem", "Options", "read_sweep"]
