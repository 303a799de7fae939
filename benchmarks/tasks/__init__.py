"""Small trainings on real data that comes with Python or scikit-learn, for measuring what a pass does to accuracy."""

from __future__ import annotations

from collections.abc import Callable

from tasks import digits, text
from tasks.task import Task

#: name -> makes the task; takes a scale, 1 for its usual length.
TASKS: dict[str, Callable[[float], Task]] = {"digits": digits.task, "text": text.task}
