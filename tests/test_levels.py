"""What is known of a problem, and what its estimates promise at each level of knowledge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import system

import thermolinalg as tla
from thermolinalg import convergence
from thermolinalg.convergence import ConditionNumber, Eigenvalues, Extremes, Level, imhof, laurent_massart, markov
from thermolinalg.testing import assert_coverage, spectra

RATES = jnp.asarray(np.geomspace(0.05, 1.0, 6))
RULES = [laurent_massart, markov, imhof]


@pytest.fixture(scope="module")
def problem():
    A, b, x = system(d=8, kappa=50.0)
    return A, b, np.asarray(x)


def ladder(A, b, x, device):
    """The estimators of one solve, from little knowledge to all."""
    rates = jnp.linalg.eigvalsh(A)
    low, high = float(rates[0]), float(rates[-1])
    length, force = float(np.linalg.norm(x)), float(jnp.linalg.norm(b))
    return [
        convergence.solve(Extremes(low, high, len(b)), force=force, device=device),
        convergence.solve(Extremes(low, high, len(b)), length=length, device=device),
        convergence.solve(Eigenvalues(rates), length=length, device=device),
        convergence.solve(A, b, device=device),
    ]


@pytest.mark.parametrize("dynamics", [tla.Overdamped(), tla.Underdamped()])
@pytest.mark.parametrize("beta", [1.0, 1e4])
def test_to_know_more_takes_less_time(problem, dynamics, beta):
    times = [estimator.time(0.05) for estimator in ladder(*problem, tla.Device(beta=beta, dynamics=dynamics))]
    values = [float(time.value) for time in times]
    assert values == sorted(values, reverse=True)
    assert [time.level for time in times] == [Level.EXTREMES, Level.EXTREMES, Level.SPECTRUM, Level.RIGHT_HAND_SIDE]
    assert all("2-norm" in time.norm for time in times)


@pytest.mark.parametrize("dynamics", [tla.Overdamped(), tla.Underdamped()])
def test_every_level_promises_what_the_exact_law_keeps(problem, dynamics):
    """The schedule of each level, judged by the exact tail of the full law."""
    *rough, full = ladder(*problem, tla.Device(beta=30.0, dynamics=dynamics))
    for estimator in rough:
        for rule in RULES:
            found = estimator.time(0.05, 0.9, rule)
            exact = full.error_of(found.schedule, 0.9, imhof)
            assert float(exact.value) <= 0.05 * (1 + 1e-6)
    short = rough[-1].time(0.05, 0.9, imhof).schedule
    short = tla.Schedule(0.5 * short.burn_in, 0.5 * short.duration)
    assert float(full.error_of(short, 0.9, imhof).value) > 0.05


@given(rates=spectra(st.just(6), st.floats(0.0, 8.0).map(lambda digits: 10.0**digits)), seed=st.integers(0, 99))
def test_the_extremes_stand_for_all_that_lies_between(rates, seed):
    """Whatever the spectrum and the answer, the law from the extremes is larger in every cumulant."""
    b = np.random.default_rng(seed).standard_normal(6)
    full = convergence.solve(tla.Diagonal(jnp.asarray(rates)), jnp.asarray(b))
    length = float(np.linalg.norm(b / rates))
    rough = convergence.solve(Extremes(rates[0], rates[-1], 6), length=length)
    for times in ((0.0, 1.0), (1.0 / rates[0], 0.1 / rates[0]), (0.1 / rates[0], 30.0 / rates[0])):
        schedule = tla.Schedule(*times)
        # Sums of squares of lengths: a few roundings each.
        assert np.all(
            np.asarray(full.law(schedule).cumulants) <= np.asarray(rough.law(schedule).cumulants) * (1 + 1e-9)
        )


def test_complex_unknowns_count_twice():
    A, b, x = system(d=4, kappa=5.0, dtype=np.complex128)
    length = float(np.linalg.norm(x))
    full, known = tla.convergence.solve(A, b), tla.convergence.solve(A, length=length)
    schedule = tla.Schedule(100.0, 50.0)
    np.testing.assert_allclose(known.law(schedule).cumulants[0, 0], full.law(schedule).cumulants[0, 0], rtol=1e-9)


def test_the_condition_number_is_in_time_constants(problem):
    A, *_ = problem
    rates = jnp.linalg.eigvalsh(A)
    known = convergence.solve(Extremes(float(rates[0]), float(rates[-1]), 8), length=1.0).time(0.1)
    blind = convergence.solve(ConditionNumber(float(rates[-1] / rates[0]), 8), length=1.0).time(0.1)
    assert blind.level is Level.CONDITION_NUMBER
    np.testing.assert_allclose(blind.value, known.value * rates[-1], rtol=1e-6)


@pytest.mark.parametrize("dynamics", [tla.Overdamped(), tla.Underdamped()])
def test_error_and_time_are_inverse(problem, dynamics):
    A, b, _ = problem
    for estimator in (convergence.solve(A, b, device=tla.Device(beta=20.0, dynamics=dynamics)), convergence.inv(A)):
        for rule in RULES:
            time = estimator.time(0.1, 0.9, rule)
            # The two searches land on splits of their own.
            np.testing.assert_allclose(estimator.error(time.value, 0.9, rule).value, 0.1, rtol=0.01)
        textbook = estimator.textbook_time(0.1)
        np.testing.assert_allclose(estimator.textbook_error(textbook.value).value, 0.1, rtol=1e-6)


def test_textbook_bounds_are_bounds_and_show_the_laws(problem):
    A, b, _ = problem
    estimator = convergence.solve(A, b)
    found = estimator.textbook_time(0.05, 0.9)
    assert float(estimator.error_of(found.schedule, 0.9, imhof).value) < 0.05
    # d kappa^2 / epsilon^2, to the logarithm of the burn-in.
    times, kappas, epsilons, dims = [], [], [], []
    for kappa in (1e2, 1e3):
        for epsilon in (1e-2, 1e-3):
            for dim in (4, 64):
                rough = convergence.solve(ConditionNumber(kappa, dim), force=1.0)
                times.append(float(rough.textbook_time(epsilon).value))
                kappas.append(kappa), epsilons.append(epsilon), dims.append(dim)
    law = convergence.fit_exponents(times, kappa=kappas, epsilon=epsilons, dim=dims)
    for name, expected in {"kappa": 2.0, "epsilon": -2.0, "dim": 1.0}.items():
        assert abs(law.exponents[name] - expected) < 1e-3


def test_measured_runs_have_the_exponents_of_the_law():
    """Mean square errors of simulated runs against their averaging time and temperature."""
    A, b, x = system(d=6, kappa=5.0)
    squares, durations, betas, errors = [], [], [], []
    for duration in (200.0, 800.0, 3200.0):
        for beta in (1.0, 10.0):
            program = tla.Device(beta=beta).program(A)
            plan = tla.Plan(200.0, duration)
            keys = jax.random.split(jax.random.key(len(squares)), 4000)
            values = _runs(program, b, plan, keys)
            square = np.sum((np.asarray(values) - x) ** 2, 1)
            squares.append(square.mean()), errors.append(square.std() / np.sqrt(len(square)))
            durations.append(duration), betas.append(beta)
    law = convergence.fit_exponents(squares, stderr=errors, duration=durations, beta=betas)
    # Long averages lose 1/(lambda tau) of their variance, which tilts the law by up to two per cent here.
    assert abs(law.exponents["duration"] + 1) < 0.02 + 5 * law.stderr["duration"]
    assert law.agrees(beta=-1.0)
    assert not law.agrees(beta=-1.1)


_runs = jax.jit(
    jax.vmap(lambda program, b, plan, key: tla.solve(program, b, key=key, plan=plan).value, (None,) * 3 + (0,))
)


class TestInverse:
    def test_to_know_more_takes_less_time(self):
        times = [
            convergence.inv(known).time(0.1)
            for known in (ConditionNumber(20.0, 6), Extremes(0.05, 1.0, 6), Eigenvalues(RATES), jnp.diag(RATES))
        ]
        values = [float(time.value) for time in times]
        np.testing.assert_allclose(values[0], values[1], rtol=1e-6)
        np.testing.assert_allclose(values[2], values[3], rtol=1e-6)
        assert values[1] > values[2]
        assert "Frobenius" in times[0].norm

    def test_textbook_bounds_exceed_the_exact_mean_square(self):
        estimator = convergence.inv(Eigenvalues(RATES))
        schedule = estimator.textbook_time(0.1, 0.9).schedule
        assert float(estimator.law(schedule).cumulants[0, 0]) <= 0.1 * 0.1**2

    @given(rates=spectra(st.just(5), st.floats(0.0, 6.0).map(lambda digits: 10.0**digits)))
    def test_the_extremes_stand_for_all_that_lies_between(self, rates):
        full = convergence.inv(tla.Diagonal(jnp.asarray(rates)))
        rough = convergence.inv(Extremes(rates[0], rates[-1], 5))
        for times in ((3.0, 20.0), (0.5, 300.0)):
            schedule = tla.Schedule(*(time / rates[0] for time in times))
            large, small = (np.asarray(law.law(schedule).cumulants[:2]) for law in (rough, full))
            assert np.all(small <= large * (1 + 1e-9))


def test_samples_of_lyapunov_and_exponential():
    A = jnp.asarray(np.diag([0.5, 1.0, 2.0]))
    exact = convergence.lyapunov(A, jnp.eye(3))
    rough = convergence.lyapunov(Extremes(0.5, 2.0, 3))
    assert exact.level is Level.RIGHT_HAND_SIDE
    assert rough.level is Level.EXTREMES
    assert float(rough.time(0.1).value) > float(exact.time(0.1).value)
    # White noise on three equal modes: 4/3 entries' worth, (d + 1)/N in the mean square.
    equal = convergence.lyapunov(jnp.eye(3), jnp.eye(3))
    schedule = tla.Schedule(100.0, 1000 * equal.spacing)
    np.testing.assert_allclose(equal.law(schedule).cumulants[0, 0], 4 / 1000, rtol=1e-6)
    dense, modal = convergence.expm(-A, 0.7), convergence.expm(Eigenvalues(jnp.diagonal(A)), 0.7)
    crude = convergence.expm(Extremes(0.5, 2.0, 3), 0.7)
    schedule = tla.Schedule(10.0, 100 * dense.spacing)
    np.testing.assert_allclose(dense.law(schedule).cumulants[0, 0], modal.law(schedule).cumulants[0, 0], rtol=0.2)
    assert float(crude.time(0.1).value) > float(modal.time(0.1).value)


def test_the_log_determinant_has_the_error_that_is_predicted():
    rates = jnp.asarray(np.geomspace(0.05, 1.0, 8))
    estimator = convergence.logdet(Eigenvalues(rates))
    found = estimator.time(0.2, 0.9)
    sample = tla.logdet(tla.Diagonal(rates), key=jax.random.key(0), samples=2000)
    predicted = estimator.law(tla.Schedule(0.0, float(sample.stats["device_time"]))).cumulants[0, 0] ** 0.5
    np.testing.assert_allclose(predicted, sample.stderr, rtol=0.02)
    assert float(convergence.logdet(Extremes(0.05, 1.0, 8)).time(0.2, 0.9).value) >= float(found.value)
    assert "absolute" in found.norm


def test_states_forget_their_start_as_the_slowest_mode_does():
    rates = jnp.array([0.5, 2.0])
    mixing = convergence.gaussian(Eigenvalues(rates))
    np.testing.assert_allclose(mixing.error(time=3.0).value, np.exp(-3.0), rtol=1e-2)
    np.testing.assert_allclose(mixing.time(1e-3).value, np.log(1e3), rtol=1e-2)
    left = 1 - np.exp(-2 * np.asarray(rates) * 3.0)
    np.testing.assert_allclose(mixing.divergence(3.0), np.sum(left - 1 - np.log(left)) / 2, rtol=1e-12)


def test_estimates_under_jit_and_vmap():
    A, b, _ = system(d=4, kappa=10.0)

    @jax.jit
    def times(A, b):
        return jax.vmap(lambda beta: convergence.solve(A, b, device=tla.Device(beta=beta)).time(0.1).value)(
            jnp.array([1.0, 10.0])
        )

    found = times(A, b)
    direct = convergence.solve(A, b, device=tla.Device(beta=10.0)).time(0.1).value
    np.testing.assert_allclose(found[1], direct, rtol=1e-6)


def test_what_does_not_make_sense_is_refused():
    known = Extremes(0.1, 1.0, 3)
    for wrong, match in [
        (lambda: ConditionNumber(0.5, 3), "kappa"),
        (lambda: ConditionNumber(2.0, 0), "dim"),
        (lambda: Extremes(1.0, 0.5, 3), "minimum and maximum"),
        (lambda: Eigenvalues(jnp.array([1.0, -1.0])), "rates"),
        (lambda: convergence.solve(known), "length of b"),
        (lambda: convergence.solve(known, force=1.0, length=1.0), "length of b"),
        (lambda: convergence.solve(known, force=-1.0), "force"),
        (lambda: convergence.solve(known, jnp.ones(3)), "matrix itself"),
        (lambda: convergence.solve(jnp.eye(3), jnp.ones(3), length=1.0), "leave out"),
        (lambda: convergence.solve(known, force=1.0, x0=jnp.ones(3)), "x0"),
        (lambda: convergence.solve(known, force=1.0).time(0.0), "rtol"),
        (lambda: convergence.solve(known, force=1.0).time(0.1, 1.0), "confidence"),
        (lambda: convergence.solve(known, force=1.0).error(-1.0), "time"),
        (lambda: convergence.solve(known, force=1.0).time(0.1, replicas=0), "replicas"),
        (lambda: convergence.solve(known, force=1.0).time(0.1, samples=2.5), "samples"),
        (lambda: convergence.lyapunov(jnp.eye(2)), "give Q"),
        (lambda: convergence.lyapunov(Eigenvalues(jnp.ones(2))), "together"),
        (lambda: convergence.expm(known, shift=1.0), "shift"),
        (lambda: convergence.fit_exponents([1.0, 2.0]), "variable"),
        (lambda: convergence.fit_exponents([1.0, 2.0], kappa=[1.0, 1.0]), "determine"),
        (lambda: convergence.fit_exponents([1.0, -2.0], kappa=[1.0, 2.0]), "positive"),
    ]:
        with pytest.raises(ValueError, match=match):
            wrong()


def test_coverage_of_a_time_from_the_spectrum_alone():
    """The answer lies anywhere: runs of three right-hand sides keep to the time that none of them was known for."""
    rates = jnp.asarray(np.geomspace(0.05, 1.0, 5))
    for b in (jnp.eye(5)[0], jnp.eye(5)[-1], jnp.ones(5)):
        x = np.asarray(b / rates)
        found = convergence.solve(Eigenvalues(rates), length=float(np.linalg.norm(x)))
        times = found.time(0.2, 0.9, imhof).schedule
        keys = jax.random.split(jax.random.key(3), 2000)
        values = np.asarray(
            _runs(tla.Device().program(jnp.diag(rates)), b, tla.Plan(times.burn_in, times.duration), keys)
        )
        assert_coverage(np.linalg.norm(values - x, axis=1) <= 0.2 * np.linalg.norm(x), 0.9)
