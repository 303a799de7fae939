"""What is timed to know a device: operations as they occur in training, at sizes from tiny to large.

None of the sizes is taken from a particular model: products go over a grid of widths and positions, all else over
bytes.
"""

from ecograph.cost.calibration.workloads.convs import all_convs
from ecograph.cost.calibration.workloads.matmuls import batched_matmuls, matmuls
from ecograph.cost.calibration.workloads.others import others
from ecograph.cost.calibration.workloads.workload import Workload

__all__ = ["Workload", "all_convs", "batched_matmuls", "matmuls", "others"]
