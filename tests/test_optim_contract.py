"""Both optimizers keep what optax asks of those it lists."""

import optimizer_contract as contract
import pytest

from thermolinalg.optim.fisher import exact
from thermolinalg.optim.kfac import kfac
from thermolinalg.optim.ngd import ngd


def by_blocks(task, rate=0.3):
    return kfac(task, rate, damping=1e-3, fisher=exact, momentum=0.0, decay=0.0, inverse_period=1)


def natural(task, rate=0.3):
    return ngd(task, rate, damping=1e-3)


FACTORIES = {
    "kfac": (kfac, ("factor_period", "inverse_period", "burn_in", "seed", "fisher")),
    "ngd": (ngd, ("seed", "fisher")),
}
NUMBERS = {"learning_rate": 0.3, "damping": 1e-3, "momentum": 0.5, "weight_decay": 1e-3, "l2": 1e-3}

pytestmark = pytest.mark.parametrize("make", [by_blocks, natural], ids=FACTORIES)


def test_other_arguments_are_accepted_and_nothing_is_compiled_twice(make):
    contract.accepts_other_arguments_and_compiles_once(make)


@pytest.mark.parametrize("name", contract.TARGETS)
def test_it_minimises(make, name):
    contract.minimises(make, name, steps=300)


def test_numbers_can_be_injected(make):
    factory, static = FACTORIES["kfac" if make is by_blocks else "ngd"]
    contract.injects_its_numbers(factory, NUMBERS | {"fisher": exact}, static)


def test_it_chains(make):
    contract.chains(make)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_updates_have_the_dtypes_of_parameters(make, dtype):
    contract.keeps_dtypes(make, dtype)


def test_it_accumulates(make):
    contract.accumulates(make)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_state_is_stable(make, dtype):
    contract.keeps_its_state_stable(make, dtype)


def test_a_schedule_may_stand_for_the_rate(make):
    contract.takes_schedules(make)
