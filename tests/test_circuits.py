"""Circuits: what they settle at by Kirchhoff's laws in SI units, against the equations of the library."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

import thermolinalg as tla
from thermolinalg.circuits import BOLTZMANN, LC, RC, couplings_of, maxwell_matrix

CELL = LC(resistance=2.0, inductance=3.0, capacitance=0.7, temperature=0.4 / BOLTZMANN, full_scale=1.7)
"""Values near one, so that equations in SI units are well conditioned; no real circuit."""

CAPACITANCES = np.array([[1.0, 0.3, 0.0], [0.3, 0.5, 0.2], [0.0, 0.2, 0.8]])
"""In units of those of the cell."""

A = np.array([[0.9, 0.2, -0.3], [0.2, 0.7, 0.1], [-0.3, 0.1, 0.8]])


def blocks(covariance):
    d = covariance.shape[0] // 2
    return covariance[:d, :d], covariance[d:, d:], covariance[:d, d:]


def capacitive_in_si(cell, M):
    """Stationary covariance of currents (A) and voltages (V), from the circuit equations as they are published."""
    d, kappa = len(M), BOLTZMANN * cell.temperature / cell.resistance
    C = cell.capacitance * M
    inverse = np.linalg.inv(C)
    drift = np.block([[np.zeros((d, d)), -np.eye(d) / cell.inductance], [inverse, inverse / cell.resistance]])
    noise = np.zeros((2 * d, 2 * d))
    noise[d:, d:] = 2 * kappa * inverse @ inverse
    return scipy.linalg.solve_continuous_lyapunov(drift, noise)


def inductive_in_si(cell, A):
    """Stationary covariance of fluxes (Wb) and voltages (V)."""
    d = len(A)
    drift = np.block(
        [
            [np.zeros((d, d)), -np.eye(d)],
            [A / cell.inductance / cell.capacitance, np.eye(d) / cell.resistance / cell.capacitance],
        ]
    )
    noise = np.zeros((2 * d, 2 * d))
    noise[d:, d:] = 2 * BOLTZMANN * cell.temperature / cell.resistance / cell.capacitance**2 * np.eye(d)
    return scipy.linalg.solve_continuous_lyapunov(drift, noise)


@pytest.fixture(scope="module")
def capacitive():
    """Maxwell matrix, and the stationary law in units of the cell."""
    M = np.asarray(maxwell_matrix(CAPACITANCES))
    drift, diffusion = CELL.capacitive(M)
    return M, np.asarray(tla.OrnsteinUhlenbeck(drift, diffusion=diffusion).stationary().covariance)


@pytest.fixture(scope="module")
def inductive():
    drift, diffusion = CELL.inductive(A)
    return np.asarray(tla.OrnsteinUhlenbeck(drift, diffusion=diffusion).stationary().covariance)


def test_capacitively_coupled_cells_hold_the_inverse_of_the_maxwell_matrix(capacitive):
    """By three routes: the phase space of the library, that in SI units, and kappa0 R C^-1."""
    M, covariance = capacitive
    kappa = BOLTZMANN * CELL.temperature / CELL.resistance
    law = kappa * CELL.resistance * np.linalg.inv(CELL.capacitance * M)
    currents, voltages, cross = blocks(capacitive_in_si(CELL, M))
    np.testing.assert_allclose(voltages, law, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(currents, kappa * CELL.resistance / CELL.inductance * np.eye(3), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(cross, 0, atol=1e-13)
    j, u, ju = blocks(covariance)
    np.testing.assert_allclose(CELL.full_scale**2 * u, law, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(CELL.current**2 * j, currents, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(ju, 0, atol=1e-13)
    assert np.abs(law - kappa * CELL.resistance / CELL.capacitance * np.linalg.inv(np.diag(np.diag(M)))).max() > 1e-2


def test_inductively_coupled_cells_hold_the_inverse_in_their_fluxes(inductive):
    position, momentum, cross = blocks(inductive)
    np.testing.assert_allclose(position, np.linalg.inv(A) / CELL.beta, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(momentum, np.eye(3) / CELL.beta, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(cross, 0, atol=1e-13)
    fluxes, voltages, _ = blocks(inductive_in_si(CELL, A))
    np.testing.assert_allclose(CELL.flux**2 * position, fluxes, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(CELL.full_scale**2 * momentum, voltages, rtol=1e-11, atol=1e-12)


def test_the_phase_space_is_that_of_the_dynamics():
    """Mode by mode the library knows the same relaxation and the same memory, from closed forms."""
    drift, diffusion = CELL.inductive(A)
    rates = jnp.linalg.eigvalsh(A)
    slowest = np.linalg.eigvals(np.asarray(drift)).real.min()
    assert float(CELL.dynamics.relaxation(rates).min()) == pytest.approx(slowest, rel=1e-12)
    process = tla.OrnsteinUhlenbeck(*CELL.inductive(jnp.diag(rates))[:1], diffusion=diffusion)
    t, memory = 1.3, CELL.dynamics.memory(rates)
    left = jnp.sum(memory.position * jnp.exp(-memory.decay * t), axis=0).real
    np.testing.assert_allclose(np.diagonal(process.transition(t).propagator)[:3], left, rtol=1e-12)


def test_a_steady_current_moves_the_fluxes_and_no_voltage_behind_inductors(capacitive):
    """What the two couplings differ in: a mean of A^-1 b against none."""
    b = jnp.array([0.3, -0.2, 0.5])
    rest = jnp.zeros(3)
    drift, diffusion = CELL.inductive(A)
    mean = tla.OrnsteinUhlenbeck(drift, jnp.concatenate([rest, b]), diffusion).stationary().mean
    np.testing.assert_allclose(mean, np.concatenate([np.linalg.solve(A, b), rest]), atol=1e-13)
    M, _ = capacitive
    drift, diffusion = CELL.capacitive(M)
    push = jnp.concatenate([rest, jnp.linalg.solve(jnp.asarray(M), b)])
    mean = tla.OrnsteinUhlenbeck(drift, push, diffusion).stationary().mean
    np.testing.assert_allclose(mean, np.concatenate([b, rest]), atol=1e-13)


def test_modes_of_the_two_couplings_have_the_frequencies_and_dampings_that_are_stated():
    value = 0.4
    gamma = 1 / CELL.quality
    for (drift, _), frequency, damping in (
        (CELL.inductive(jnp.array([[value]])), value**0.5, gamma),
        (CELL.capacitive(jnp.array([[value]])), value**-0.5, gamma / value),
    ):
        # Characteristic polynomial s^2 + damping s + frequency^2 of decay rates.
        first, second = np.linalg.eigvals(np.asarray(drift))
        assert (first * second).real == pytest.approx(frequency**2, rel=1e-12)
        assert (first + second).real == pytest.approx(damping, rel=1e-12)


def test_energy_is_shared_equally():
    """Half kT for each capacitor and each inductor, at 300 K and with components of a real size."""
    cell = LC(resistance=5e3, inductance=1e-3, capacitance=1e-9)
    half = BOLTZMANN * 300 / 2
    assert cell.capacitance * cell.thermal_voltage**2 / 2 == pytest.approx(half, rel=1e-12)
    drift, diffusion = cell.capacitive(jnp.eye(1))
    covariance = np.asarray(tla.OrnsteinUhlenbeck(drift, diffusion=diffusion).stationary().covariance)
    assert cell.inductance * cell.current**2 * covariance[0, 0] / 2 == pytest.approx(half, rel=1e-12)
    assert cell.capacitance * cell.full_scale**2 * covariance[1, 1] / 2 == pytest.approx(half, rel=1e-12)


def rc_in_si(cell, A, noise):
    """Stationary covariance of the voltages of C dv = -G v dt + N(0, noise dt), G = A / R."""
    rate = A / cell.resistance / cell.capacitance
    return scipy.linalg.solve_continuous_lyapunov(rate, noise / cell.capacitance**2)


def test_resistively_coupled_cells_hold_the_inverse_if_the_noise_is_injected():
    cell = RC(resistance=2.0, capacitance=0.7, temperature=0.4 / BOLTZMANN, full_scale=1.7)
    injected = rc_in_si(cell, A, 2 * cell.current_noise * np.eye(3))
    np.testing.assert_allclose(injected, cell.thermal_voltage**2 * np.linalg.inv(A), rtol=1e-12, atol=1e-14)
    process = tla.OrnsteinUhlenbeck(jnp.asarray(A), diffusion=2 / cell.beta * jnp.eye(3))
    np.testing.assert_allclose(cell.full_scale**2 * process.stationary().covariance, injected, rtol=1e-12, atol=1e-14)
    # Resistors with no noise but their own know nothing of the couplings: equipartition in every capacitor.
    own = rc_in_si(cell, A, 2 * BOLTZMANN * cell.temperature * A / cell.resistance)
    np.testing.assert_allclose(own, cell.thermal_voltage**2 * np.eye(3), rtol=1e-12, atol=1e-14)


def test_the_equation_has_the_time_the_force_and_the_noise_of_the_circuit():
    """Each term of C dv = -(G v - I) dt + sqrt(2 kT/R) dW, divided by C V and taken for the time RC."""
    cell = RC(resistance=4.7e3, capacitance=3.3e-10, temperature=350.0, full_scale=0.8)
    charge, second = cell.capacitance * cell.full_scale, cell.time_constant
    assert second == pytest.approx(4.7e3 * 3.3e-10)
    assert cell.full_scale / cell.resistance * second / charge == pytest.approx(1.0, rel=1e-12)
    assert cell.current * second / charge == pytest.approx(1.0, rel=1e-12)
    assert 2 * BOLTZMANN * 350.0 / 4.7e3 * second / charge**2 == pytest.approx(2 / cell.beta, rel=1e-12)


def test_published_time_constant_and_its_thermal_noise():
    """1 kOhm and 1 nF: 1 us, and about 2 uV of noise at room temperature."""
    cell = RC()
    assert cell.time_constant == pytest.approx(tla.Device().time_constant, rel=1e-12)
    assert cell.thermal_voltage == pytest.approx(2.035e-6, rel=1e-3)
    assert cell.beta == pytest.approx((1.0 / cell.thermal_voltage) ** 2, rel=1e-12)


def test_oscillators_ring_as_they_should():
    """A cell on its own, R L C in parallel, from the roots of its characteristic polynomial in SI units."""
    cell = LC(resistance=2e4, inductance=2e-3, capacitance=5e-10)
    root = np.roots([1.0, 1 / (cell.resistance * cell.capacitance), 1 / (cell.inductance * cell.capacitance)])[0]
    assert 2 * np.pi * cell.frequency == pytest.approx(abs(root), rel=1e-12)
    assert cell.time_constant == pytest.approx(1 / abs(root), rel=1e-12)
    assert cell.quality == pytest.approx(abs(root) / (-2 * root.real), rel=1e-12)
    assert cell.dynamics.friction == pytest.approx(1 / cell.quality, rel=1e-12)
    assert cell.impedance == pytest.approx(2e3)


def test_components_and_equations_there_and_back():
    cell = RC(resistance=4.7e3, capacitance=3.3e-10, temperature=77.0, full_scale=0.2)
    back = RC.realising(cell.time_constant, cell.beta, capacitance=3.3e-10, full_scale=0.2)
    for name in ("resistance", "capacitance", "temperature", "full_scale"):
        assert getattr(back, name) == pytest.approx(getattr(cell, name), rel=1e-12)
    back = LC.realising(
        CELL.time_constant, CELL.dynamics.friction, CELL.beta, capacitance=CELL.capacitance, full_scale=1.7
    )
    for name in ("resistance", "inductance", "capacitance", "temperature", "full_scale"):
        assert getattr(back, name) == pytest.approx(getattr(CELL, name), rel=1e-12)


size = st.floats(0.1, 10.0)


@given(second=size, ampere=size, joule=size)
def test_units(second, ampere, joule):
    """Measured in other seconds, amperes and joules every property changes by the factor of its unit, and no other."""
    volt = joule / (ampere * second)
    ohm, farad, henry = volt / ampere, ampere * second / volt, volt * second / ampere
    units = {"resistance": ohm, "inductance": henry, "capacitance": farad, "temperature": joule, "full_scale": volt}
    scaled = replace(CELL, **{name: getattr(CELL, name) * unit for name, unit in units.items()})
    expected = {
        "beta": 1.0,
        "quality": 1.0,
        "time_constant": second,
        "frequency": 1 / second,
        "impedance": ohm,
        "flux": volt * second,
        "current": ampere,
        "thermal_voltage": volt,
        "current_noise": ampere**2 * second,
    }
    for name, unit in expected.items():
        assert getattr(scaled, name) == pytest.approx(getattr(CELL, name) * unit, rel=1e-10), name
    for mine, theirs in zip(scaled.capacitive(np.eye(2)), CELL.capacitive(np.eye(2)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10)


def test_the_device_of_a_circuit_inverts():
    cell = LC.realising(1e-6, friction=1.0, beta=100.0, capacitance=1e-9)
    device = tla.Device(beta=cell.beta, dynamics=cell.dynamics, time_constant=cell.time_constant)
    b = jnp.array([1.0, 0.5, -1.0])
    x = tla.solve(A, b, key=jax.random.key(0), rtol=0.02, device=device)
    exact = np.linalg.solve(A, b)
    assert np.all(np.abs(x.value - exact) < 5 * x.stderr)
    assert not np.all(np.abs(1.2 * x.value - exact) < 5 * x.stderr)


def test_a_maxwell_matrix_is_the_energy_of_the_capacitors():
    v = np.array([0.3, -1.0, 0.7])
    energy = np.diag(CAPACITANCES) @ v**2 / 2
    energy += sum(CAPACITANCES[i, j] * (v[i] - v[j]) ** 2 / 2 for i in range(3) for j in range(i))
    assert v @ maxwell_matrix(CAPACITANCES) @ v / 2 == pytest.approx(energy, rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_capacitors_there_and_back(dtype):
    given_ = (1e-9 * CAPACITANCES).astype(dtype)
    M = maxwell_matrix(given_)
    assert M.dtype == dtype
    # A capacitor to ground is what is left of a row; nothing is lost but the rounding of its sum.
    np.testing.assert_allclose(couplings_of(M), given_, rtol=0, atol=8 * np.finfo(dtype).eps * 2e-9)
    under = jax.jit(lambda C: couplings_of(maxwell_matrix(C)))(given_)
    np.testing.assert_allclose(under, given_, rtol=0, atol=8 * np.finfo(dtype).eps * 2e-9)


def test_a_row_that_sums_to_zero_by_rounding_needs_no_capacitor():
    M = np.array([[0.3, -0.1, -0.2], [-0.1, 0.4, 0.0], [-0.2, 0.0, 0.5]])
    assert M[0].sum() < 0
    assert couplings_of(M)[0, 0] == 0


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[2.0, 0.5, -1.0], [0.5, 2.0, 0.0], [-1.0, 0.0, 2.0]], r"matrix\[0, 1\] is 0.5"),
        ([[2.0, -0.5, -1.0], [-0.5, 2.0, 0.0], [-1.0, 0.0, 0.9]], "row 2 of matrix sums to -0.1"),
        ([[1.0, -0.5], [-0.4, 1.0]], r"not symmetric: \[0, 1\] is -0.5 and \[1, 0\] is -0.4"),
        ([[1.0, 0.5]], "square"),
        ([[np.nan]], "not finite"),
    ],
)
def test_matrices_that_no_capacitors_realise(matrix, message):
    with pytest.raises(ValueError, match=message):
        couplings_of(np.array(matrix))


def test_scaling_realises_any_positive_definite_matrix_without_positive_couplings():
    """Not dominant by its diagonal, refused; realised as the notes say, with the same inverse."""
    stubborn = np.array([[1.0, -0.9, -0.6], [-0.9, 1.2, 0.0], [-0.6, 0.0, 3.0]])
    assert np.linalg.eigvalsh(stubborn).min() > 0
    with pytest.raises(ValueError, match="row 0"):
        couplings_of(stubborn)
    u = np.linalg.solve(stubborn, np.ones(3))
    M = u[:, None] * stubborn * u[None]
    np.testing.assert_allclose(maxwell_matrix(couplings_of(M)), M, rtol=1e-12)
    np.testing.assert_allclose(M.sum(axis=1), u, rtol=1e-12)
    np.testing.assert_allclose(u[:, None] * np.linalg.inv(M) * u[None], np.linalg.inv(stubborn), rtol=1e-12)


def test_capacitors_are_not_negative_and_cells_are_grounded():
    with pytest.raises(ValueError, match=r"capacitances\[0, 1\] is -0.3"):
        maxwell_matrix(np.array([[1.0, -0.3], [-0.3, 1.0]]))
    floating = maxwell_matrix(np.array([[0.0, 1.0], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="not positive definite"):
        CELL.capacitive(floating)


@pytest.mark.parametrize("name", ["resistance", "capacitance", "temperature", "full_scale", "inductance"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_components_are_positive_and_finite(name, value):
    with pytest.raises(ValueError, match=f"{name} must be positive and finite"):
        replace(CELL, **{name: value})
    if name != "inductance":
        with pytest.raises(ValueError, match=f"{name} must be positive and finite"):
            RC(**{name: value})


def test_circuits_work_under_transformations():
    def total(capacitance):
        cell = LC(2.0, 3.0, capacitance)
        return cell.time_constant * cell.quality

    # sqrt(LC) R sqrt(C/L) = R C.
    assert float(jax.jit(jax.grad(total))(0.7)) == pytest.approx(2.0, rel=1e-12)
    betas = jax.vmap(lambda C: RC(capacitance=C).beta)(jnp.array([1e-9, 2e-9], jnp.float32))
    assert betas.dtype == jnp.float32
    assert float(betas[1] / betas[0]) == pytest.approx(2.0, rel=1e-6)
    drift, diffusion = jax.jit(lambda cell, M: cell.capacitive(M))(CELL, jnp.eye(2, dtype=jnp.float32))
    assert drift.dtype == diffusion.dtype == jnp.float32
