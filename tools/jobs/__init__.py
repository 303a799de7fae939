"""Whole trainings, written down in TOML: read strictly, carried out, reported."""

from ecograph.tools.jobs.job import Job
from ecograph.tools.jobs.plan import Planned, plan
from ecograph.tools.jobs.read import read_job

__all__ = ["Job", "Planned", "plan", "read_job"]
