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
        name: of a device that was calibrated here, or of one in ``profiles.toml``. ``"auto"``: the one at hand. That is
            the CPU as it was calibrated with torch's present number of threads, or else one that nobody has measured;
            or the GPU, from its datasheet.
        type: torch's, of the device at hand: ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: for a name that is not known, a GPU at hand that no profile is for, and a damaged profile.
    """
    if name == AUTO:
        return _gpu_at_hand() if type == "cuda" else _cpu_at_hand()
    if name == shipped.GENERIC:
        return shipped.generic_cpu(torch.get_num_threads())
    if name in shipped.names():
        return shipped.gpu(name)
    calibrated = stored.load(name)
    if calibrated is not None:
        return calibrated
    known = [*shipped.names(), *stored.names()]
    close = get_close_matches(name.lower(), known, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ValueError(f"device {name!r} is not known: give auto or one of {', '.join(known)}{hint}")


def _cpu_at_hand() -> Device:
    threads = torch.get_num_threads()
    return stored.load(stored.cpu(threads)) or shipped.generic_cpu(threads)


def _gpu_at_hand() -> Device:
    known = ", ".join(name for name in shipped.names() if name != shipped.GENERIC)
    if not torch.cuda.is_available():
        raise ValueError(f"there is no GPU here: name one of {known}, or generic-cpu")
    title = torch.cuda.get_device_name()
    found = shipped.gpu_like(title)
    if found is None:
        raise ValueError(f"no profile is for the GPU {title!r}: name the one that is most like it, of {known}")
    return found
