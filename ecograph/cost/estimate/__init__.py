"""What a training step will cost on a device, layer by layer and pass by pass, before any of it is run.

`estimate.py` records the step as each pass in turn leaves it and sums up what its operations cost; `result.py` is what
comes of it; `table.py` shows it. `run.py` makes a whole training of it, and `run_table.py` shows that.
"""

from ecograph.cost.estimate.estimate import estimate
from ecograph.cost.estimate.result import Amount, Estimate, LayerCost, PassCost
from ecograph.cost.estimate.run import PlannedRun, plan_run, skipped_epochs

__all__ = ["Amount", "Estimate", "LayerCost", "PassCost", "PlannedRun", "estimate", "plan_run", "skipped_epochs"]
