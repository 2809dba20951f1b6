"""Times of a device as formulas, against the laws that the rest of the package computes with numbers."""

import math

import numpy as np
import pytest
import scipy.linalg as sl

import thermolinalg as tla
from thermolinalg import convergence
from thermolinalg.complexity import Kind
from thermolinalg.complexity import symbols as sy
from thermolinalg.complexity.models import thermodynamic, traffic
from thermolinalg.convergence import ConditionNumber, Eigenvalues, Extremes
from thermolinalg.simulators import Schedule

UNDERDAMPED = tla.Device(dynamics=tla.Underdamped())
CASES = [(10.0, 4, 0.1), (100.0, 32, 0.01)]


def at(model, condition, size, error, **given):
    values = {sy.kappa: condition, sy.d: size, sy.eps: error, sy.tau: 1.0, sy.signal: 3.0, sy.phi: 1e-3, sy.delta: 0.1}
    return model.at(values | {getattr(sy, name): value for name, value in given.items()})


def mean_square(estimator, burn_in, duration):
    """Mean of the squared error, relative."""
    return float(estimator.law(Schedule(burn_in, duration)).cumulants[0, 0])


@pytest.mark.parametrize(("condition", "size", "error"), CASES)
def test_textbook_times(condition, size, error):
    """The same closed forms, in numbers: equal but for rounding."""
    known = ConditionNumber(condition, dim=size)
    solve = convergence.solve(known, force=3.0).textbook_time(error, 0.9)
    assert at(thermodynamic.SOLVE, condition, size, error) == pytest.approx(float(solve.value), rel=1e-12)
    inverse = convergence.inv(known).textbook_time(error, 0.9)
    assert at(thermodynamic.INVERSE, condition, size, error) == pytest.approx(float(inverse.value), rel=1e-12)
    logdet = convergence.logdet(known).textbook_time(error, 0.9)
    # Markov's inequality divides the mean square that is allowed by the probability.
    found = at(thermodynamic.LOGDET, condition, size, error * math.sqrt(0.1))
    assert found == pytest.approx(float(logdet.value), rel=1e-12)
    mixing = convergence.gaussian(known)
    found = at(thermodynamic.SETTLE_COVARIANCE, condition, size, error)
    assert found == pytest.approx(float(mixing.textbook_time(error).value), rel=1e-12)
    # A bisection finds the sharp one.
    assert found == pytest.approx(float(mixing.time(error).value), rel=1e-4)


@pytest.mark.parametrize(("condition", "size", "error"), CASES)
def test_sharp_times_are_within_the_bounds(condition, size, error):
    known = ConditionNumber(condition, dim=size)
    for model, sharp in (
        (thermodynamic.SOLVE, convergence.solve(known, force=3.0)),
        (thermodynamic.INVERSE, convergence.inv(known)),
    ):
        ratio = at(model, condition, size, error) / float(sharp.time(error, 0.9).value)
        # Half of the mean square for the bias costs 2, Markov's inequality at 0.9 at most 10 more.
        assert 1 < ratio < 20, (model.name, ratio)


@pytest.mark.parametrize(("condition", "size", "error"), CASES)
def test_averages_at_their_worst(condition, size, error):
    """All modes at the slowest make the bounds tight; any other spectrum stays below."""
    slowest = Eigenvalues(np.full(size, 1 / condition))
    other = Eigenvalues(np.geomspace(1 / condition, 1.0, size))
    time = at(thermodynamic.SOLVE_AVERAGE, condition, size, error)
    start = 30 * condition
    # The answer is taken as short as it can be with a largest eigenvalue of one.
    for known, low in ((slowest, 0.99), (other, 0.0)):
        share = mean_square(convergence.solve(known, length=3.0), start, time) / error**2
        assert low < share <= 1, share
    time = at(thermodynamic.INVERSE_AVERAGE, condition, size, error)
    for known, low in ((slowest, 0.98), (other, 0.0)):
        share = mean_square(convergence.inv(known), start, time) / error**2
        assert low < share <= 1, share
    assert at(thermodynamic.INVERSE_AVERAGE_SPECTRAL, condition, size, error) == pytest.approx(size * time, rel=1e-12)
    short = mean_square(convergence.inv(slowest), start, 0.9 * time)
    assert short > error**2


@pytest.mark.parametrize(("condition", "size", "error"), CASES)
def test_residuals(condition, size, error):
    """White whatever the spectrum: eigenvalues times the noise of each mode."""
    rates = np.geomspace(1 / condition, 1.0, size)
    time = at(thermodynamic.SOLVE_RESIDUAL_AVERAGE, condition, size, error)
    z = rates * time
    square = np.sum(rates**2 / rates * 2 * (z - 1 + np.exp(-z)) / z**2) / 3.0**2
    assert 0.5 < square / error**2 <= 1


@pytest.mark.parametrize("condition", [10.0, 1000.0])
@pytest.mark.parametrize("error", [0.1, 1e-6])
def test_burn_in_of_oscillators(condition, error):
    """What is left of the start, by the exponential of the equations of motion, is within the bound for every mode."""
    friction = 2 / math.sqrt(condition)
    models = {thermodynamic.SETTLE_UNDERDAMPED: error, thermodynamic.SAMPLE_UNDERDAMPED: math.sqrt(error)}
    for model, allowed in models.items():
        time = at(model, condition, 1, error, phi=error)

        def left(time):
            rates = np.geomspace(1 / condition, 1.0, 40)
            motions = [np.array([[0.0, 1.0], [-rate, -friction]]) for rate in rates]
            return max(abs(sl.expm(motion * time)[0, 0]) for motion in motions)

        assert left(time) <= allowed
        assert left(time / 2) > allowed


@pytest.mark.parametrize(("condition", "size"), [(10.0, 4), (100.0, 16)])
def test_averages_of_oscillators(condition, size):
    error = 0.003
    known = Eigenvalues(np.append(np.full(size - 1, 1 / condition), 1.0))
    start = 60 * math.sqrt(condition)
    time = at(thermodynamic.SOLVE_UNDERDAMPED_AVERAGE, condition, size, error)
    share = mean_square(convergence.solve(known, length=3.0, device=UNDERDAMPED), start, time) / error**2
    assert 0.98 * (size - 1) / size < share < 1.001
    time = at(thermodynamic.INVERSE_UNDERDAMPED_AVERAGE, condition, size, error)
    share = mean_square(convergence.inv(known, device=UNDERDAMPED), start, time) / error**2
    assert 0.9 * (size - 1) / size < share < 1.001
    geometric = Eigenvalues(np.geomspace(1 / condition, 1.0, size))
    assert mean_square(convergence.inv(geometric, device=UNDERDAMPED), start, time) < error**2


@pytest.mark.parametrize("condition", [10.0, 100.0, 1000.0])
def test_gain_of_oscillators(condition):
    """Overdamped over underdamped: about half of the square root of the condition number."""
    slow, fast = thermodynamic.INVERSE_AVERAGE, thermodynamic.INVERSE_UNDERDAMPED_AVERAGE
    ratio = at(slow, condition, 10, 0.1) / at(fast, condition, 10, 0.1)
    assert ratio == pytest.approx(0.4 * math.sqrt(condition), rel=1e-12)
    error = 1e-3
    logdets = [
        float(convergence.logdet(ConditionNumber(condition, dim=8), device=device).textbook_time(error, 0.9).value)
        for device in (None, UNDERDAMPED)
    ]
    models = [thermodynamic.LOGDET, thermodynamic.LOGDET_UNDERDAMPED]
    found = [at(model, condition, 8, error * math.sqrt(0.1)) for model in models]
    assert found[0] == pytest.approx(logdets[0], rel=1e-12)
    # The bound of a critically damped mode is looser than its rate, which leaves out the power of time before it.
    assert 1 < found[1] / logdets[1] < 2.3


def test_samples_of_an_inverse():
    """Second moments of independent Gaussian states, by drawing them."""
    rng = np.random.default_rng(0)
    spread = 1 / np.geomspace(0.05, 1.0, 8)
    count, trials = 50, 4000
    states = rng.standard_normal((trials, count, 8)) * np.sqrt(spread)
    errors = np.einsum("tni,tnj->tij", states, states) / count - np.diag(spread)
    squares = np.sum(errors**2, (1, 2)) / np.sum(spread**2)
    rank = spread.sum() ** 2 / np.sum(spread**2)
    error = math.sqrt((rank + 1) / count)
    assert thermodynamic.INVERSE_SAMPLES.at({sy.rank: rank, sy.eps: error}) == pytest.approx(count, rel=1e-12)
    assert abs(squares.mean() - error**2) < 5 * squares.std() / math.sqrt(trials)
    assert at(thermodynamic.INVERSE_SAMPLES_WORST, 20.0, 8, error) > count
    assert thermodynamic.LYAPUNOV_SAMPLES.cost == thermodynamic.INVERSE_SAMPLES_WORST.cost


@pytest.mark.parametrize("seed", range(4))
def test_samples_of_an_exponential(seed):
    """The law of the lagged moment, for a drift whose stationary covariance is the identity."""
    rng = np.random.default_rng(seed)
    size, count = 5, 40
    half = rng.standard_normal((size, size))
    drift = half @ half.T / size + 0.1 * np.eye(size) + (half - half.T)
    answer = sl.expm(-drift)
    square = (size**2 + np.sum(answer**2)) / count
    assert at(thermodynamic.EXPM_SAMPLES, 1.0, size, math.sqrt(square / size)) >= count * (1 - 1e-12)
    assert at(thermodynamic.EXPM_SAMPLES, 1.0, size, math.sqrt(square / size)) < 1.25 * count


@pytest.mark.parametrize("condition", [10.0, 100.0])
def test_lyapunov_against_the_estimate_of_the_package(condition):
    """Extremes known only: within what confidence and the smallest eigenvalue for all modes cost."""
    known = Extremes(1 / condition, 1.0, 8)
    sharp = float(convergence.lyapunov(known).time(0.1, 0.5).value)
    assert 0.2 < at(thermodynamic.LYAPUNOV, condition, 8, 0.1) / sharp < 5


def test_divergence():
    for condition, size, error in ((10.0, 4, 1e-4), (100.0, 64, 1e-3)):
        time = at(thermodynamic.SAMPLE_DIVERGENCE, condition, size, error)
        worst = convergence.gaussian(Eigenvalues(np.full(size, 1 / condition)))
        assert float(worst.divergence(time)) == pytest.approx(error, rel=0.05)
    with pytest.raises(ValueError, match="holds for"):
        at(thermodynamic.SAMPLE_DIVERGENCE, 10.0, 1, 0.5)


@pytest.mark.parametrize(
    ("condition", "strength", "error", "simulated"),
    [(100.0, 10.0, 1e-3, (740, 844)), (1e3, 100.0, 1e-8, (2.2e4, 2.2e4)), (1e5, 100.0, 1e-3, (7.6e5, 7.9e5))],
)
def test_refined_solves(condition, strength, error, simulated):
    found = at(thermodynamic.SOLVE_REFINED, condition, 256, error, signal=strength)
    assert 0.85 * min(simulated) < found < 1.05 * max(simulated)
    # Refinement pays by orders of magnitude where noise counts.
    plain = at(thermodynamic.SOLVE_AVERAGE, condition, 256, error, signal=strength)
    assert plain > 10 * found


def test_refined_inverses():
    """Sweeps of Newton-Schulz from a covariance of samples, counted."""
    rng = np.random.default_rng(0)
    size, many, error = 64, 20, 1e-10
    states = rng.standard_normal((many * size, size))
    # The residual does not depend on the matrix: A X is similar to the covariance of white noise.
    start = states.T @ states / (many * size) / (1 + 1 / many)
    residual, sweeps = np.linalg.norm(np.eye(size) - start, 2), 0
    while residual > error:
        residual, sweeps = residual**2, sweeps + 1
    found = thermodynamic.INVERSE_REFINED_SWEEPS.at({sy.rho: many, sy.eps: error, sy.d: size})
    assert abs(math.ceil(found) - sweeps) <= 1
    assert thermodynamic.INVERSE_REFINED_SAMPLES.at({sy.rho: many, sy.d: size}) == many * size


def test_costs_that_nobody_knows():
    unknown = [
        *(thermodynamic.SOLVE_UNDERDAMPED_REFINED, thermodynamic.LYAPUNOV_UNDERDAMPED, thermodynamic.EXPM_UNDERDAMPED),
        *(thermodynamic.LYAPUNOV_REFINED, thermodynamic.EXPM_REFINED, thermodynamic.LOGDET_REFINED),
    ]
    for model in unknown:
        assert model.kind is Kind.UNAVAILABLE
        with pytest.raises(ValueError, match=model.name):
            at(model, 10.0, 4, 0.1)
        with pytest.raises(ValueError, match="not available"):
            traffic.cells(model)


def test_as_published():
    """Derived bounds grow as the published orders, in the norms that they name."""
    large, small = [sy.d, sy.kappa], [sy.eps]
    pairs = (
        (thermodynamic.SOLVE_AVERAGE, thermodynamic.PUBLISHED_SOLVE),
        (thermodynamic.INVERSE_AVERAGE_SPECTRAL, thermodynamic.PUBLISHED_INVERSE),
    )
    for derived, published in pairs:
        assert derived.leading(large, small).terms == published.leading(large, small).terms
    assert thermodynamic.INVERSE_AVERAGE.leading(large, small) != thermodynamic.PUBLISHED_INVERSE.leading(large, small)


@pytest.mark.parametrize("size", [3, 10])
def test_numbers_in_and_out(size):
    """As the ledger of the package counts them: one array, one write, real entries."""
    device = tla.presets.rc(bits=9)
    rate, bits = float(device.link.rate), float(device.link.bits)
    values = {sy.d: size, sy.k: 5, sy.q: 1, sy.w: bits, sy.B_L: rate}
    solve = tla.cost(tla.Plan(3.0, 40.0), device, dim=size, columns=5).seconds
    moved = float(solve.program) + float(solve.load) + float(solve.read)
    assert traffic.SOLVE_TRANSFER.at(values) == pytest.approx(moved, rel=1e-12)
    inverse = tla.cost_moments(tla.Plan(3.0, 40.0), device, dim=size).seconds
    moved = float(inverse.program) + float(inverse.load) + float(inverse.read)
    assert traffic.INVERSE_TRANSFER.at(values) == pytest.approx(moved, rel=1e-12)
    drawn = tla.cost_moments(tla.Plan(0.3, 40.0, 70), device, dim=size).seconds
    moved = float(drawn.program) + float(drawn.load) + float(drawn.read)
    assert traffic.SAMPLE_TRANSFER.at(values | {sy.k: 70}) == pytest.approx(moved, rel=1e-12)
    others = {
        traffic.LYAPUNOV_TRANSFER: {"loaded": size**2},
        traffic.EXPM_TRANSFER: {"states": 2},
        traffic.LOGDET_TRANSFER: {"writes": 4},
    }
    for model, given in others.items():
        found = tla.cost_moments(tla.Plan(0.3, 40.0, 70), device, dim=size, **given).seconds
        moved = float(found.program) + float(found.load) + float(found.read)
        assert model.at(values | {sy.k: 70, sy.nodes: 4}) == pytest.approx(moved, rel=1e-12), model.name


def test_cells():
    joules = traffic.cells(thermodynamic.SETTLE)
    assert joules.at({sy.d: 4, sy.P_cell: 1e-3, sy.kappa: 10, sy.tau: 1e-6, sy.eps: math.exp(-1)}) == pytest.approx(
        4e-8
    )
    assert joules.kind is Kind.MODEL
