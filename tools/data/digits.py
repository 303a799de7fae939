"""``digits``: scikit-learn's handwritten digits, with the demo's split."""

from __future__ import annotations

from torch.utils.data import TensorDataset

from ecograph.tools.data.kind import Data, Kind
from ecograph.tools.errors import UserError


def make(rest: str) -> Data:
    """Returns 539 images ``(1, 8, 8)`` with their class, and 1,258 for validation.

    Raises:
        UserError: for options, which it has none of; and where scikit-learn is not installed.
    """
    from ecograph.tools import demo_data

    if rest:
        raise UserError(f"data 'digits:{rest}': digits has no options: give digits")
    found = demo_data.load()
    return Data(
        "digits",
        TensorDataset(found.train_images, found.train_labels),
        TensorDataset(found.test_images, found.test_labels),
    )


KIND = Kind("digits", "scikit-learn's handwritten digits, images 1x8x8: 539 to train on, 1,258 to validate", make)
