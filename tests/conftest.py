"""What all tests share: the support folder on the path, and torchvision's operators where they are missing."""

import os
import sys
import tempfile
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores; also for those that tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# What pays depends on the machine: all tests see one that nobody has measured.
os.environ["ECOGRAPH_CACHE"] = tempfile.mkdtemp(prefix="ecograph-cache-")

# A folder of its own: "tests" itself on the path would make "tests/ecograph" look like the package.
sys.path.insert(0, str(Path(__file__).parent / "support"))

from ecograph.tools.torchvision_ops import declare_missing  # noqa: E402

declare_missing()
