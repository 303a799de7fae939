"""Calibration: measuring what the device at hand does, in under two minutes.

`workloads/` says what is timed, `settle.py` warms the processor up for it, `timing.py` times it, `overhead.py` what a
call costs beside its work, and `calibrate.py` makes a device of the figures.
"""

from ecograph.cost.calibration.calibrate import calibrate

__all__ = ["calibrate"]
