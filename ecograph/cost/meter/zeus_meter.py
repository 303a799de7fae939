"""The counters of this machine, as Zeus (https://ml.energy/zeus) finds them: NVML, AMD, RAPL, Apple.

Zeus knows the drivers, the daemon ``zeusd`` and the places in containers; read here are the counters of its
devices. Its ``ZeusMonitor`` is not used: it starts processes (to notice that RAPL begins anew, to sample the power of
GPUs before Volta) by "spawn", which runs the user's script again where that has no ``if __name__ == "__main__"``; and
it waits for, and so opens, all GPUs of the machine.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ecograph.cost.meter.counters import Counter, CounterMeter
from ecograph.cost.meter.growing import Integrated, Unwrapped
from ecograph.cost.meter.meter import Meter, Missing, NoMeter

#: Seconds between two updates of a counter.
#: RAPL: "approximately every 1 ms", Intel SDM vol. 3B, section "RAPL Interfaces".
#: NVML: about 100 ms, https://ml.energy/blog/energy/measurement/thermally-stable-profiling-for-accurate-gpu-energy-measurement
#: AMD: the driver reads every 1 ms, https://github.com/ROCm/legacy-rocm-build/issues/1649; taken as NVML's, for we
#: know of nobody who has measured it. Apple says nothing of its own: taken as NVML's too.
RESOLUTION = {"rapl": 0.001, "nvml": 0.1, "amd": 0.1, "apple": 0.1}

#: Seconds between two samples of a GPU's power, which is updated every 20 to 100 ms: https://arxiv.org/abs/2312.02741
SAMPLE_EVERY = 0.1

#: RAPL begins anew after 65 kJ or more: at 1 kW, after a minute.
POLL_RAPL_EVERY = 10.0

#: Where Zeus looks for RAPL: here, and where it tells users to show it in a container.
RAPL = ("/sys/class/powercap/intel-rapl", "/zeus_sys/class/powercap/intel-rapl")

INSTALL = 'pip install "ecograph[energy]"'
PRIVILEGES = "https://ml.energy/zeus/getting_started/#system-privileges"
READABLE = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"

#: As in pyproject.toml.
OLDEST_ZEUS = (0, 16)

_Found = tuple[list[Counter], dict[str, Missing]]


def find_meter() -> Meter:
    """Returns the best meter of this machine; looks for it once in every process.

    Takes about half a second where Zeus is installed, and nothing otherwise.
    """
    return _find(os.getpid())  # handles of drivers do not survive a fork


@lru_cache(maxsize=1)
def _find(process: int) -> Meter:
    # Zeus warns on stderr of each driver that is not there; `missing` says so where somebody asks.
    log = logging.getLogger("zeus")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return _look()
    finally:
        log.setLevel(level)


def _look() -> Meter:
    if find_spec("zeus") is None:
        return NoMeter(f"no meter is read without Zeus: {INSTALL}")
    installed = _version()
    if installed < OLDEST_ZEUS:
        # It starts a process for each RAPL counter that it sees, see above.
        return NoMeter(f'Zeus {".".join(map(str, installed))} is too old: pip install --upgrade "ecograph[energy]"')
    try:
        zeus = import_module("zeus.device")
    except Exception as error:  # an old Zeus, or one that does not fit what it imports
        return NoMeter(f"Zeus cannot be imported ({type(error).__name__}: {error}): {INSTALL}")
    counters: list[Counter] = []
    missing: dict[str, Missing] = {}
    for look in (_gpus, _cpus, _apple):
        found, reasons = look(zeus)
        counters += found
        missing |= reasons
    return CounterMeter(counters, missing)


def _version() -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in version("zeus").split(".")[:2])
    except (PackageNotFoundError, ValueError):  # a checkout of it, or a version such as "1.dev0": taken to be new
        return OLDEST_ZEUS


def _gpus(zeus: Any) -> _Found:
    try:
        gpus = [_gpu(index, gpu) for index, gpu in enumerate(zeus.get_gpus().gpus)]
    except Exception as error:  # of any driver
        return [], {"cuda": Missing(f"the counters of GPUs cannot be read: {_text(error)}")}
    return gpus, {}


def _gpu(index: int, gpu: Any) -> Counter:
    vendor = "amd" if "amd" in type(gpu).__module__ else "nvml"
    domain = f"{vendor}:{gpu.gpu_index}"  # as in nvidia-smi, whatever CUDA_VISIBLE_DEVICES says
    device = _uuid(gpu) if vendor == "nvml" else f"cuda:{index}"
    if gpu.supports_get_total_energy_consumption():
        return Counter(domain, device, vendor, RESOLUTION[vendor], lambda: gpu.get_total_energy_consumption() / 1000)
    watts = Integrated(_power(gpu))
    return Counter(domain, device, f"{vendor} power samples", SAMPLE_EVERY, watts, poll_every=SAMPLE_EVERY)


def _uuid(gpu: Any) -> str:
    """CUDA counts the fastest GPU first and NVML goes by the bus: only the UUID is the same in both."""
    found = import_module("pynvml").nvmlDeviceGetUUID(gpu.handle)
    return found.decode() if isinstance(found, bytes) else str(found)


def _power(gpu: Any) -> Callable[[], float]:
    """Returns a function for the power in watts: at once where there is that, else the driver's average."""
    try:
        gpu.get_instant_power_usage()
    except Exception:  # not supported, in the words of each driver; where the average fails too, the reading says so
        return lambda: gpu.get_average_power_usage() / 1000
    return lambda: gpu.get_instant_power_usage() / 1000


def _cpus(zeus: Any) -> _Found:
    if sys.platform == "darwin":
        return [], {}
    try:
        cpus = zeus.get_cpus().cpus
        counters = [counter for cpu in cpus for counter in _cpu(cpu)]
    except Exception as error:  # no permission, no RAPL, no answer from zeusd
        return [], {"cpu": Missing(_no_rapl(error))}
    if counters and os.environ.get("LOCAL_RANK", "0") != "0":
        # RAPL counts the whole machine: of the processes that torchrun started on it, one may report that.
        return [], {"cpu": Missing("RAPL is read by the first process on this machine", elsewhere=True)}
    return counters, {}


def _no_rapl(error: Exception) -> str:
    if not any(map(os.path.exists, RAPL)):
        return "this machine shows no energy counter of its CPU (RAPL); most virtual machines do not"
    denied = isinstance(error, PermissionError) or "permission" in str(error).lower()
    fix = f"{READABLE}; or zeusd, {PRIVILEGES}" if denied else _text(error)
    return f"the CPU's counters (RAPL) cannot be read: {fix}"


def _cpu(cpu: Any) -> list[Counter]:
    files = getattr(cpu, "rapl_file", None), getattr(cpu, "dram", None)
    if files[0] is None:
        return _cpu_by_zeusd(cpu)
    if files[0].name == "psys":  # the whole board, with the package in it: it would count twice
        return []
    names = files[0].name, f"dram-{cpu.cpu_index}"
    return [
        Counter(
            f"rapl:{name}", "cpu", "rapl", RESOLUTION["rapl"], _counted(file),
            optional=at > 0, poll_every=POLL_RAPL_EVERY,
        )
        for at, (name, file) in enumerate(zip(names, files, strict=True))
        if file is not None
    ]  # fmt: skip


def _counted(file: Any) -> Unwrapped:
    # `file.read()` starts a process, see above.
    path = Path(file.energy_uj_path)
    return Unwrapped(lambda: float(path.read_text()) / 1e6, file.max_energy_range_uj / 1e6)


def _cpu_by_zeusd(cpu: Any) -> list[Counter]:
    """The daemon counts on past the end of a round by itself."""

    def package() -> float:
        return float(cpu.get_total_energy_consumption().cpu_mj) / 1000

    def dram() -> float:
        return float(cpu.get_total_energy_consumption().dram_mj) / 1000

    at, resolution = cpu.cpu_index, RESOLUTION["rapl"]
    found = [Counter(f"rapl:package-{at}", "cpu", "rapl", resolution, package)]
    if cpu.supports_get_dram_energy_consumption():
        found.append(Counter(f"rapl:dram-{at}", "cpu", "rapl", resolution, dram, optional=True))
    return found


def _apple(zeus: Any) -> _Found:
    if sys.platform != "darwin":  # Zeus knows Jetson boards too, by a process such as the module says
        return [], {}
    try:
        chip = zeus.get_soc()
        now = chip.get_total_energy_consumption()
    except Exception as error:
        why = f'the counters of the chip cannot be read ({_text(error)}): pip install "zeus[apple]"'
        return [], {"cpu": Missing(why), "mps": Missing(why)}

    def read(field: str) -> Callable[[], float]:
        return lambda: float(getattr(chip.get_total_energy_consumption(), field)) / 1000

    fields = ("cpu_total_mj", "cpu", "cpu"), ("dram_mj", "dram", "cpu"), ("gpu_mj", "gpu", "mps")
    return [
        Counter(f"apple:{name}", device, "apple", RESOLUTION["apple"], read(field), optional=name == "dram")
        for field, name, device in fields
        if getattr(now, field, None) is not None
    ], {}


def _text(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
