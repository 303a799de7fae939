"""``ecograph calibrate``: how fast this machine really is, for estimates of time and energy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecograph.tools.console import note, print_json, stderr, stdout
from ecograph.tools.errors import UserError, user_errors

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Group
    from rich.progress import Progress as Bar

    from ecograph.cost.calibration.calibrate import Progress
    from ecograph.cost.devices import Device

#: What lies between operations, in words.
BESIDE = {
    "forward": "beside each operation of the forward",
    "backward": "beside each operation of the backward",
    "optimizer": "beside each operation of the optimizer",
    "function": "a function that is differentiated in Python",
    "python": "each call of a Python function",
}


def calibrate(
    dtypes: Annotated[
        list[str] | None,
        typer.Option("--dtype", help="Time only float32, or only bfloat16. May be repeated; both if left out."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of torch. Each number of them has a profile of its own.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Repeat as little as possible: half the time.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure this machine's CPU, for estimates that fit it.

    Times matrix products, convolutions and all else that a training step runs, over sizes. Takes less than two minutes,
    in which the machine should have nothing else to do. The profile goes into the user's cache folder (or into
    $ECOGRAPH_CACHE), and every estimate for this CPU with as many threads uses it.

    A GPU is not measured: estimates take its datasheet.
    """
    import torch

    from ecograph.cost.calibration import calibrate as measure
    from ecograph.cost.devices import stored

    if torch.cuda.is_available():
        note(f"only the CPU is measured; for {torch.cuda.get_device_name()} estimates take a datasheet")
    if threads is not None:
        torch.set_num_threads(threads)
    started = time.perf_counter()
    with _bar() as bar, user_errors("--dtype: "):
        task = bar.add_task("warming up", total=None)

        def tell(progress: Progress) -> None:
            bar.update(
                task,
                description=progress.says,
                completed=progress.done,
                total=progress.total,
                refresh=bar.live.is_started,
            )

        device = measure(tuple(dtypes) if dtypes else ("float32", "bfloat16"), quick=quick, tell=tell)
    try:
        path = stored.save(device)
    except OSError as error:
        raise UserError(f"{stored.folder()}: {error.strerror}; ECOGRAPH_CACHE names another folder") from error
    seconds = time.perf_counter() - started
    if json:
        print_json(_to_dict(device, path, seconds))
    else:
        stdout().print(_report(device, path, seconds))
    if text := disturbance(device):
        note(text)


def disturbance(device: Device) -> str:
    """Returns what to tell of a calibration that was disturbed; "" where it was not."""
    from ecograph.cost.devices.device import DISTURBED

    if device.spread <= DISTURBED:
        return ""
    return (
        f"disturbed: times of the same work lie {device.spread:.0%} apart, where on a quiet machine it is less than "
        f"{DISTURBED:.0%}; end what else is running, and calibrate again"
    )


def _to_dict(device: Device, path: Path, seconds: float) -> dict[str, Any]:
    from ecograph.cost.estimate.result import device_dict

    return {
        "device": device_dict(device),
        "disturbed": bool(disturbance(device)),
        "seconds": seconds,
        "file": str(path),
    }


def _report(device: Device, path: Path, seconds: float) -> Group:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from ecograph.cost.devices.shipped import in_words
    from ecograph.cost.estimate.table import duration
    from ecograph.report_table import human

    table = Table("what", "found", title=device.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.columns[1].justify = "right"
    timed = {timing.dtype for timing in device.timings}
    for dtype, figure in device.flops.items():
        if dtype in timed:
            table.add_row(f"products in {dtype}, at most", f"{human(round(figure.value))}FLOP/s")
    table.add_row("memory, at most", f"{human(round(device.bandwidth.value))}B/s")
    table.add_row("an operation, at least", duration(device.call.value))
    for of, title in BESIDE.items():
        if of in device.overhead:
            longer = device.swept.get(of)
            more = "" if longer is None else f", and {duration(longer.value)} more with full caches"
            table.add_row(title, duration(device.overhead[of].value) + more)
    table.add_row("memory that is new, beside writing it", f"{duration(1e6 * device.new_memory.value)} per MB")
    table.add_row("operations timed", str(len(device.timings)))
    table.add_row("spread of repeats", f"{device.spread:.1%}")
    lines = [
        f"measured in {seconds:.0f} s, and stored as {path}",
        f"ecograph inspect SPEC --cost and ecograph train CONFIG.toml --dry-run use it for this CPU, with "
        f"{in_words(device.threads)} of torch; by name it is {device.name}",
    ]
    return Group(table, Text("\n".join(lines), style="dim"))


def _bar() -> Bar:
    """Returns a progress bar on stderr; it is shown on a terminal only."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = stderr()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        TimeElapsedColumn(),
        console=console,
        auto_refresh=False,  # nothing is drawn while something is timed
        transient=True,
        disable=not console.is_terminal,
    )
