import io
import json
import math

import pytest
from rich.console import Console

from ecograph.cost.energy import Energy
from ecograph.loop import History, NonFiniteLossError


def two_epochs() -> History:
    history = History()
    history.record(0, train_loss=2.0, val_loss=None, lr=0.1, seconds=1.5, train_accuracy=0.5)
    history.note("skipped by Sampler")
    history.record(1, train_loss=None, val_loss=1.0, lr=0.01, seconds=0.5, train_accuracy=None)
    return history


def test_a_history_is_a_sequence_of_epochs() -> None:
    history = two_epochs()
    assert len(history) == 2
    assert [record.epoch for record in history] == [0, 1]
    assert history[0].values == {"train_accuracy": 0.5}
    assert history[-1].note == "skipped by Sampler"
    assert history[0].note == ""


def test_columns() -> None:
    history = two_epochs()
    assert history.column("train_loss") == [2.0, None]
    assert history.column("train_accuracy") == [0.5, None]
    assert history.column("note") == [None, "skipped by Sampler"]
    assert History().column("train_loss") == []
    with pytest.raises(ValueError, match="no 'accuracy'; it has epoch, train_loss"):
        history.column("accuracy")


def test_to_dict_survives_json() -> None:
    data = two_epochs().to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["seconds"] == 2.0


def test_energy_comes_with_its_source() -> None:
    history = two_epochs()
    assert "joules" not in history[0].to_dict()  # nobody asked
    history.record(2, train_loss=1.0, lr=0.01, seconds=2.0, energy=Energy(12500.0, "measured:nvml + modelled:7 W"))
    record = history[2].to_dict()
    assert (record["joules"], record["energy_source"]) == (12500.0, "measured:nvml + modelled:7 W")
    assert history.column("joules") == [None, None, 12500.0]
    assert history.energy == Energy(None, "none")  # of the first two, half of the time, nothing is known
    copy = History()
    copy.load_state_dict(history.state_dict())
    assert copy[2] == history[2]
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(history)
    assert "energy (measured + modelled)" in (text := console.export_text()) and "12.5 kJ" in text


def test_the_energy_of_all_epochs() -> None:
    history = History()
    history.record(0, train_loss=1.0, lr=0.1, seconds=2.0, energy=Energy(10.0, "measured:nvml + modelled:7 W"))
    history.record(1, train_loss=1.0, lr=0.1, seconds=2.0, energy=Energy(5.0, "modelled:7 W"))
    assert history.energy == Energy(15.0, "measured:nvml + modelled:7 W")
    history.record(2, train_loss=None, lr=0.1, seconds=0.01, energy=Energy(None, "none"))
    assert history.energy.joules == 15.0  # skipped: too short for a meter, and for a difference
    history.record(3, train_loss=1.0, lr=0.1, seconds=2.0, energy=Energy(None, "none"))
    assert (history.to_dict()["joules"], history.to_dict()["energy_source"]) == (None, "none")


def test_it_shows_as_a_table_counted_from_one() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(two_epochs())
    lines = [line.split() for line in console.export_text().splitlines()]
    assert "accuracy" in lines[1]
    assert lines[3][1::2][:3] == ["1", "2", "-"]
    assert "skipped" in lines[4]


def test_repr() -> None:
    assert repr(History()) == "<History of 0 epochs>"
    assert "'val_loss': 1.0" in repr(two_epochs())


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(loss: float) -> None:
    history = two_epochs()
    with pytest.raises(NonFiniteLossError, match=f"loss of epoch 3 is {loss}.*clip") as caught:
        history.record(2, train_loss=loss, lr=0.1, seconds=1.0)
    assert caught.value.history is history
    assert len(history) == 3
