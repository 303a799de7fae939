"""Export to ONNX Runtime training, with the sparse backward inside the training graph.

Data flows through the files in this order: ``batch`` and ``losses`` say what a step is called with, ``step_module``
makes it one pure function, ``forward`` exports that with a mark on every sparse site (``sites``, ``slices``,
``translations``, ``differentiable``), ``artifacts`` has ONNX Runtime differentiate it, ``gradients`` makes the
gradients sparse, ``manifest`` describes it, ``trial`` takes a step with it before it is published, and ``trainer``
runs it (``step_graph``). ``ort_training`` is the front door and reads like this list.
"""

from ecograph.export.ort_training import export_onnx_training
from ecograph.export.trainer import OrtTrainer

__all__ = ["OrtTrainer", "export_onnx_training"]
