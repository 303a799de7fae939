"""The rows of ``ecograph doctor``: each looks at one thing and never fails."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: extra -> the distributions it brings.
EXTRAS: dict[str, tuple[str, ...]] = {
    "demo": ("scikit-learn",),
    "onnx": ("onnx", "onnxscript", "onnxruntime-training-cpu"),
    "energy": ("zeus", "zeus-apple-silicon"),
    "tensorboard": ("tensorboard",),
    "plots": ("matplotlib",),
    "sweep": ("optuna", "matplotlib"),
}

#: What `inspect` looks models up in, besides the user's own code.
ZOOS = ("torchvision", "timm", "transformers")

RAPL = Path("/sys/class/powercap")
PRIVILEGES = "https://ml.energy/zeus/getting_started/#system-privileges"


@dataclass(frozen=True)
class Check:
    """One row.

    Attributes:
        name: what was looked at.
        ok: whether it is there.
        value: what was found.
        fix: how to get it where it is missing; ``""`` where nothing needs to be done.
    """

    name: str
    ok: bool
    value: str
    fix: str = ""


def checks() -> list[Check]:
    """Looks at everything. Takes a second or two, since it tries Dynamo out."""
    looks: list[Callable[[], Check]] = [_python, _ecograph, _torch, _cpu, _threads, _bf16, _gpu, _dynamo, _compiler]
    rows = [look() for look in looks]
    rows.append(_calibration())
    rows += [_extra(name, distributions) for name, distributions in EXTRAS.items()]
    rows += [_zoo(name) for name in ZOOS]
    return [*rows, _energy(), _rapl(), _nvml()]


def _python() -> Check:
    return Check("Python", True, f"{platform.python_version()}, {platform.system()} {platform.machine()}")


def _ecograph() -> Check:
    from ecograph import __version__, registry

    return Check("ecograph", True, f"{__version__}, passes: {', '.join(registry.names())}")


def _torch() -> Check:
    import torch

    return Check("torch", True, torch.__version__)


def _cpu() -> Check:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    from ecograph.cost.devices import stored

    return Check("CPU", True, f"{stored.cpu_name()}, {os.cpu_count()} cores, {capability}")


def _threads() -> Check:
    import torch

    return Check("torch threads", True, f"{torch.get_num_threads()} (OMP_NUM_THREADS sets it)")


def _bf16() -> Check:
    """Whether products in bfloat16 run in hardware: on a CPU without, ``amp="bf16"`` makes training slower."""
    import torch

    tests = {
        "AMX": "_is_amx_tile_supported",
        "AVX512-BF16": "_is_avx512_bf16_supported",
        "Arm BF16": "_is_arm_bf16_supported",
    }
    found = [name for name, test in tests.items() if getattr(torch.cpu, test, lambda: False)()]
    if found:
        return Check("bf16 on the CPU", True, ", ".join(found))
    return Check("bf16 on the CPU", False, "no instructions", 'a newer CPU; amp="bf16" does not pay on this one')


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Check("GPU", True, ", ".join(names))
    if torch.backends.mps.is_available():
        return Check("GPU", True, "Apple MPS")
    if torch.version.cuda is None and torch.version.hip is None:
        return Check("GPU", False, "none; this torch is built for the CPU only", "see https://pytorch.org/get-started")
    return Check("GPU", False, "none found", "none is needed")


def _dynamo() -> Check:
    """Tries out what capture needs: symbolic tracing takes its place, but finds less."""
    import torch

    from ecograph.capture import capture

    model = torch.nn.Linear(2, 2)
    part = capture(model, torch.zeros(1, 2)).parts[0]
    if part.method == "dynamo":
        return Check("Dynamo", True, "captures graphs")
    return Check("Dynamo", False, part.note, "a Python that torch.compile supports; without, capture is coarser")


def _compiler() -> Check:
    """Whether torch.compile can build its CPU kernels. ecograph itself needs no compiler."""
    from shutil import which

    wanted = ("cl",) if sys.platform == "win32" else ("c++", "g++", "clang++")
    for name in wanted:
        if path := which(name):
            return Check("C++ compiler", True, path)
    return Check("C++ compiler", False, "none", "only torch.compile on the CPU needs one")


def _calibration() -> Check:
    """Whether estimates for the CPU are made from timings of it, with as many threads as torch has now."""
    import torch

    from ecograph.cost.devices import stored
    from ecograph.cost.devices.shipped import in_words
    from ecograph.tools.calibrate import disturbance

    threads = torch.get_num_threads()
    fix = "ecograph calibrate: two minutes, on a machine that has nothing else to do"
    try:
        device = stored.load(stored.cpu(threads))
    except ValueError as error:
        return Check("calibration", False, str(error), fix)
    if device is None:
        return Check("calibration", False, f"none with {in_words(threads)}; estimates are rough", fix)
    found = f"{len(device.timings)} timings with {in_words(threads)}, spread {device.spread:.0%}"
    return Check("calibration", True, found, fix if disturbance(device) else "")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _extra(name: str, distributions: tuple[str, ...]) -> Check:
    versions = {each: _version(each) for each in distributions if _exists(each)}
    value = ", ".join(f"{each} {found or 'missing'}" for each, found in versions.items())
    ok = all(versions.values())
    return Check(f"extra {name}", ok, value, "" if ok else f'pip install "ecograph[{name}]"')


def _exists(distribution: str) -> bool:
    """Whether there is such a distribution for this Python, as the markers in pyproject.toml have it."""
    if distribution == "onnxruntime-training-cpu":
        return sys.platform == "linux" and sys.version_info < (3, 13)
    if distribution == "zeus-apple-silicon":
        return sys.platform == "darwin" and platform.machine() == "arm64"
    return True


def _zoo(name: str) -> Check:
    found = _version(name)
    if found is None:
        return Check(name, False, "missing", f"pip install {name}, for ecograph inspect")
    if name == "torchvision":
        from ecograph.tools.torchvision_ops import declare_missing

        if declare_missing():
            return Check(
                name,
                False,
                f"{found}, but its compiled operators do not fit this torch",
                "install both from the same index; ecograph inspect works without",
            )
    return Check(name, True, found)


def _energy() -> Check:
    """Whether `ecograph.measure` and the history of a training have measured figures here."""
    from ecograph.cost.meter import find_meter

    meter = find_meter()
    if meter.domains:
        modelled = "" if any(each.startswith(("rapl", "apple")) for each in meter.domains) else "; the CPU is modelled"
        return Check("energy", True, f"measured: {', '.join(meter.domains)}{modelled}")
    return Check("energy", False, "modelled from CPU time", meter.missing("cpu").why)


def _rapl() -> Check:
    """Whether the CPU's energy counters can be read."""
    name = "energy meter: CPU (RAPL)"
    counters = sorted(RAPL.glob("intel-rapl:*/energy_uj"))
    if not counters:
        return Check(name, False, "this machine shows no counter", "bare metal Linux; energy is modelled without")
    if all(os.access(counter, os.R_OK) for counter in counters):  # Zeus wants all
        return Check(name, True, f"{len(counters)} counters")
    fix = f"sudo chmod a+r {RAPL}/intel-rapl:*/energy_uj, until the next start; or the daemon zeusd, {PRIVILEGES}"
    return Check(name, False, "not readable", fix)


def _nvml() -> Check:
    """Whether the driver of an NVIDIA GPU tells its energy."""
    from ctypes import CDLL

    name = "energy meter: GPU (NVML)"
    library = "nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1"
    try:
        nvml = CDLL(library)
    except OSError:
        return Check(name, False, "no NVIDIA driver", "only for NVIDIA GPUs")
    if nvml.nvmlInit_v2() != 0:
        return Check(name, False, f"{library} does not start", "nvidia-smi tells why")
    nvml.nvmlShutdown()
    return Check(name, True, library)
