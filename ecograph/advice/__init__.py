"""What is free on this machine: the switches of torch and the passes of ecograph, measured side by side.

`advise.py` is what users call; `search.py` says which settings are worth measuring, stage by stage; `trial.py` makes a
step of a setting, `rounds.py` times settings in turn, `memory.py` finds a step's peak; `advice.py` is what comes of it.
`auto.py` switches the best on, for ``optimize(recipe="auto")``.
"""

from ecograph.advice.advice import Advice, Row
from ecograph.advice.advise import advise
from ecograph.advice.setting import Setting

__all__ = ["Advice", "Row", "Setting", "advise"]
