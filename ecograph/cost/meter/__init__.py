"""How much energy a stretch of a program took: measured where there is a meter, modelled where there is none.

`measure.py` is what users write, `window.py` what it does: it asks a `Meter` and the model, and puts a source to every
figure. `zeus_meter.py` finds the counters of this machine, `counters.py` makes a meter of counters.
"""

from ecograph.cost.meter.counters import Counter, CounterMeter
from ecograph.cost.meter.measure import measure
from ecograph.cost.meter.meter import Meter, Missing, NoMeter, Reading
from ecograph.cost.meter.used import Part, Used
from ecograph.cost.meter.window import Window
from ecograph.cost.meter.zeus_meter import find_meter

__all__ = [
    "Counter",
    "CounterMeter",
    "Meter",
    "Missing",
    "NoMeter",
    "Part",
    "Reading",
    "Used",
    "Window",
    "find_meter",
    "measure",
]
