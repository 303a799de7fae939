from ecograph.cost.energy import WATTS_PER_CORE, model_cpu_energy


def test_cpu_energy_is_labelled_as_modelled() -> None:
    energy = model_cpu_energy(10.0)
    assert energy.joules == 10 * WATTS_PER_CORE
    assert energy.source.startswith("modelled:")


def test_no_time_gives_no_energy_and_never_zero() -> None:
    for nothing in (None, 0.0):
        energy = model_cpu_energy(nothing)
        assert (energy.joules, energy.source) == (None, "none")
