"""Devices: what they do with time and energy, and how that is known.

`device.py` says what is known of a device, `profiles.toml` holds those that are known from datasheets, `stored.py`
those that were calibrated here, `find.py` picks one; `roofline.py` and `rates.py` tell how long an operation takes.
"""

from ecograph.cost.devices.device import Device, Figure, Timing
from ecograph.cost.devices.find import find_device
from ecograph.cost.devices.roofline import Roofline

__all__ = ["Device", "Figure", "Roofline", "Timing", "find_device"]
