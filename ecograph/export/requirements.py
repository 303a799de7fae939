"""What the export needs installed, and one line that says so where it is not there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import torch.utils.checkpoint

#: Of the ONNX files: the newest that onnxruntime-training 1.19.2 loads.
IR_VERSION = 10
#: Of the operators in them.
OPSET = 18

WHEEL = "onnxruntime-training-cpu==1.19.2"
INSTALL = 'pip install "ecograph[onnx]"'


def check_installed() -> None:
    """Raises ImportError, with what to install, unless ONNX Runtime training and the exporter can be imported."""
    with _checkpoint_as_it_is():
        for name in ("onnx", "onnxscript", "onnxruntime"):
            try:
                import_module(name)
            except ImportError as error:
                raise ImportError(_what_to_do(name)) from error
        try:
            import_module("onnxruntime.training.api")
        except ImportError as error:
            if _has_wheels():
                raise ImportError(
                    "onnxruntime is installed without training: pip uninstall onnxruntime, then pip install "
                    f"--force-reinstall {WHEEL}"
                ) from error
            raise ImportError(_what_to_do("onnxruntime.training")) from error


@contextmanager
def _checkpoint_as_it_is() -> Iterator[None]:
    """Leaves ``torch.utils.checkpoint`` alone.

    ONNX Runtime puts a function of its own in its place when it is imported, for its ORTModule, which is not used here;
    Dynamo cannot trace that one, so a model with checkpoints would be captured in pieces.
    """
    checkpoint = torch.utils.checkpoint.checkpoint
    try:
        yield
    finally:
        torch.utils.checkpoint.checkpoint = checkpoint


def _has_wheels() -> bool:
    return sys.platform == "linux" and sys.version_info < (3, 13)


def _what_to_do(missing: str) -> str:
    if missing.startswith("onnxruntime") and not _has_wheels():
        version = ".".join(map(str, sys.version_info[:2]))
        return (
            "ONNX Runtime training needs Linux and Python 3.10 to 3.12 (its last release, 1.19.2, has no wheels for "
            f"others), and this is Python {version} on {sys.platform}"
        )
    return f"ONNX Runtime training needs {missing}, which is not installed: {INSTALL}"


@contextmanager
def quiet_runtime() -> Iterator[None]:
    """Keeps ONNX Runtime from printing what each graph transformer did; it writes to the process's stderr itself."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def short(error: object, most: int = 300) -> str:
    """Returns what ONNX Runtime says without the C++ signature that it says it from."""
    text = " ".join(str(error).split())
    return text.rpartition("[ONNXRuntimeError] : ")[2][:most]
