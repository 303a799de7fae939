"""Capture: a model in, fx graphs out, and nothing about the model changed.

``capture(model, ...)`` is the only way in. With example inputs it asks Dynamo (:mod:`.dynamo`), without them,
or where Dynamo cannot run, it traces symbolically (:mod:`.symbolic`). Either way the result is a
:class:`Capture`: graphs of torch-level operations whose nodes know the module they ran in and, for
parameters, their qualified name.
"""

from ecograph.capture.capture import capture
from ecograph.capture.graph import Capture, Graph, Part

__all__ = ["Capture", "Graph", "Part", "capture"]
