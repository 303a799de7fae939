"""torch's ONNX exporter, as it is but quicker the second time."""

import functools


def remember_torchlib() -> None:
    """Has the exporter keep its translations of torch's operators, which it parses anew for every export."""
    from torch.onnx._internal._lazy_import import onnxscript_apis

    if not hasattr(onnxscript_apis.get_torchlib_ops, "cache_info"):
        onnxscript_apis.get_torchlib_ops = functools.cache(onnxscript_apis.get_torchlib_ops)
