import jax.numpy as jnp
import numpy as np
import pytest

import thermolinalg as tla


def test_the_ledger_adds_up():
    device = tla.Device(time_constant=2e-6, link=tla.Link(bits=8, rate=1e9))
    ledger = tla.cost(tla.Plan(10.0, 90.0, clock=3.0), device, dim=100, columns=4)
    assert ledger.program == pytest.approx(100**2 * 8 / 1e9)
    assert ledger.load == ledger.read == pytest.approx(400 * 8 / 1e9)
    assert (ledger.settle, ledger.average) == pytest.approx((4 * 2e-6 * 30, 4 * 2e-6 * 270))
    assert ledger.total == pytest.approx(ledger.program + ledger.load + ledger.analog + ledger.read)


def test_published_loading_time():
    """1000 x 1000 couplings of 16 bits at 50 Gb/s take 0.32 ms: the timing model of arXiv:2405.13817."""
    assert tla.cost(tla.Plan(0.0, 1.0), dim=1000).program == pytest.approx(3.2e-4)


def test_device_time_does_not_depend_on_the_units_of_the_matrix():
    A, b = jnp.diag(jnp.array([1.0, 2.0, 5.0])), jnp.ones(3)
    times = [
        tla.cost(tla.plan.solve(c * A, b, rtol=0.1, device=tla.Device(beta=c)), dim=3).analog for c in (1e-3, 1.0, 1e3)
    ]
    np.testing.assert_allclose(times, times[0], rtol=1e-5)


def test_other_verbs_move_other_numbers():
    """An inverse loads nothing and reads d squared numbers."""
    ledger = tla.cost(tla.Plan(1.0, 1.0), tla.Device(link=tla.Link(bits=8, rate=1e9)), dim=10, loaded=0, read=100)
    assert (ledger.load, ledger.read) == (0.0, pytest.approx(8e-7))
    with pytest.raises(ValueError, match="loaded and read"):
        tla.cost(tla.Plan(0.0, 1.0), dim=3, read=-1)


def test_a_price_needs_a_size():
    with pytest.raises(ValueError, match="dim"):
        tla.cost(tla.Plan(0.0, 1.0), dim=0)


def test_replicas_share_the_link():
    one, three = (tla.cost(tla.Plan(5.0, 95.0, replicas=n), dim=100) for n in (1, 3))
    assert (three.analog, three.program) == (one.analog, 3 * one.program)
    assert three.total == pytest.approx(one.total + 2 * (one.program + one.load + one.read))
