"""What a run is: whatever must be the same for a checkpoint to be gone on from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ecograph.loop.checkpoints.file import CheckpointError
from ecograph.loop.lengths import length
from ecograph.record import records


def fingerprint(
    state: Mapping[str, Any], options: Mapping[str, Any], loader: Iterable[Any], world_size: int
) -> dict[str, Any]:
    """Returns what tells a run from others, as numbers and strings.

    Args:
        state: the objects whose state is kept, by name; among them "model".
        options: of the loop.
        loader: of the training data.
        world_size: processes that train together.
    """
    model = state["model"]
    return {
        "options": dict(options),
        "passes": [{k: str(v) for k, v in each.items()} for record in records(model) for each in record.passes],
        "kinds": {name: "nothing" if each is None else type(each).__name__ for name, each in state.items()},
        "model": {name: _shape(each) for name, each in model.state_dict().items()},
        "batches": length(loader),
        "world_size": world_size,
    }


def refuse_another(found: Mapping[str, Any], expected: Mapping[str, Any], where: str) -> None:
    """Raises CheckpointError, naming the first thing in which the run of a checkpoint differs from this one."""
    fix = "go on with what it was begun with, or give another folder to start anew"
    for name, (then, now) in _differences(found["options"], expected["options"]):
        raise CheckpointError(f"{where} was written with {name}={then}, and now it is {name}={now}: {fix}")
    for name, (then, now) in _differences(found["kinds"], expected["kinds"]):
        what = "the model is a" if name == "model" else f"{name} is"
        raise CheckpointError(f"{where}: {what} {now} here and was {then} there: {fix}")
    if found["passes"] != expected["passes"]:
        then, now = (
            [", ".join(f"{k}={v}" for k, v in each.items()) for each in side["passes"]] for side in (found, expected)
        )
        raise CheckpointError(
            f"{where}: the model was optimized with {then or 'no passes'}, now with {now or 'none'}: {fix}"
        )
    for name, (then, now) in _differences(found["model"], expected["model"]):
        raise CheckpointError(
            f"{where} is of another model: {name!r} is {now or 'missing'} here and {then or 'missing'} there: {fix}"
        )
    if found["world_size"] != expected["world_size"]:
        raise CheckpointError(
            f"{where} was written by {found['world_size']} processes, and here are {expected['world_size']}: start as "
            "many, since each goes on with its own random numbers and share of the data"
        )
    if found["batches"] != expected["batches"]:
        raise CheckpointError(
            f"{where}: the training data had {found['batches']} batches per epoch and has {expected['batches']}: {fix}"
        )


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, tuple[Any, Any]]]:
    names = list(dict.fromkeys([*then, *now]))
    return [(name, (then.get(name), now.get(name))) for name in names if then.get(name) != now.get(name)]


def _shape(value: Any) -> str:
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}" if isinstance(value, Tensor) else "no tensor"
