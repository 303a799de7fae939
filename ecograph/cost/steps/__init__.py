"""What a training step runs, operation by operation, recorded without data.

`record.py` runs a copy of the model with fake tensors and writes down every operation that torch would carry out, in
the forward, the backward and the optimizer's step; `kinds.py` says of each what kind of work it is, `flops.py` and
`traffic.py` how much of it there is, `owners.py` which layer it is done for, `memory.py` what is kept meanwhile.
"""

from ecograph.cost.steps.op import Op
from ecograph.cost.steps.record import Step, record_step

__all__ = ["Op", "Step", "record_step"]
