"""What a training step will cost on a device, layer by layer and pass by pass, before any of it is run.

`estimate.py` records the step as each pass in turn leaves it and sums up what its operations cost; `result.py` is what
comes of it; `table.py` shows it.
"""

from ecograph.cost.estimate.estimate import estimate
from ecograph.cost.estimate.result import Amount, Estimate, LayerCost, PassCost

__all__ = ["Amount", "Estimate", "LayerCost", "PassCost", "estimate"]
