"""``DATA``: what data set a user means by ``digits``, ``random:3x32x32:10`` or ``file.py:function``.

One file per kind; `find` knows them all, `loaders` makes batches of what it found.
"""

from ecograph.tools.data.find import KINDS, describe, epilog, find
from ecograph.tools.data.kind import Data

__all__ = ["KINDS", "Data", "describe", "epilog", "find"]
