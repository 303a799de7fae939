"""What all tests share: the support folder on the path, and torchvision's operators where they are missing."""

import sys
from pathlib import Path

# A folder of its own: "tests" itself on the path would make "tests/ecograph" look like the package.
sys.path.insert(0, str(Path(__file__).parent / "support"))

from torchvision_ops import declare_missing  # noqa: E402

declare_missing()
