"""Which device figures are for: the one at hand, calibrated if it was, or any that is known from its datasheet."""

from __future__ import annotations

from difflib import get_close_matches

import torch

from ecograph.cost.devices import shipped, stored
from ecograph.cost.devices.device import Device

AUTO = "auto"


def find_device(name: str = AUTO, *, type: str = "cpu") -> Device:
    """Returns a device by its name.

    Args:
        name: of a device that was calibrated here, or of one in ``profiles.toml``. ``"auto"``: the one at hand, as it
            was calibrated; or else from its datasheet; or else a CPU that nobody has measured.
        type: torch's, of the device at hand: ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: for a name that is not known.
    """
    threads = torch.get_num_threads()
    if name == AUTO:
        if type == "cuda" and not torch.cuda.is_available():
            raise ValueError("there is no GPU here: name one, such as device='h100', or give device='cpu'")
        found = stored.load(stored.name_of(type, threads))
        if found is None and type == "cuda":
            found = shipped.gpu_like(torch.cuda.get_device_name())
        return found or shipped.generic_cpu(threads)
    if name == shipped.GENERIC:
        return shipped.generic_cpu(threads)
    if name in shipped.names():
        return shipped.gpu(name)
    calibrated = stored.load(name)
    if calibrated is not None:
        return calibrated
    known = [*shipped.names(), *sorted(path.stem for path in stored.folder().glob("*.json"))]
    close = get_close_matches(name, known, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"device {name!r} is not known: give auto or one of {', '.join(known)}{hint}")
