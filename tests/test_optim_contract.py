"""K-FAC keeps what optax asks of the optimizers it lists."""

import optimizer_contract as contract
import pytest

from thermolinalg.optim.fisher import exact
from thermolinalg.optim.kfac import kfac


def make(task, rate=0.3):
    return kfac(task, rate, damping=1e-3, fisher=exact, momentum=0.0, decay=0.0, inverse_period=1)


def test_other_arguments_are_accepted_and_nothing_is_compiled_twice():
    contract.accepts_other_arguments_and_compiles_once(make)


@pytest.mark.parametrize("name", contract.TARGETS)
def test_it_minimises(name):
    contract.minimises(make, name)


def test_numbers_can_be_injected():
    numbers = {"learning_rate": 0.3, "damping": 1e-3, "momentum": 0.5, "weight_decay": 1e-3, "l2": 1e-3}
    static = ("factor_period", "inverse_period", "burn_in", "seed", "fisher")
    contract.injects_its_numbers(kfac, numbers | {"fisher": exact}, static)


def test_it_chains():
    contract.chains(make)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_updates_have_the_dtypes_of_parameters(dtype):
    contract.keeps_dtypes(make, dtype)


def test_it_accumulates():
    contract.accumulates(make)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_state_is_stable(dtype):
    contract.keeps_its_state_stable(make, dtype)


def test_a_schedule_may_stand_for_the_rate():
    contract.takes_schedules(make)
