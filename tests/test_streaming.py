"""Streaming estimators: equal to NumPy on stored paths, honest about their errors, stable on long streams."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thermolinalg.solution import Status
from thermolinalg.streaming import BatchMeans, LaggedMoments, Moments
from thermolinalg.testing import assert_unit_variance, assert_within_stderr

EPS = np.finfo(np.float64).eps
RHO = 0.8
TAU = (1 + RHO) / (1 - RHO)
LAGS = (3, 0, 1, 7)
LENGTH = 63 * 64
"""63 full batches of 64: seven autocorrelation times each."""

add = jax.jit(lambda state, x: state.add(x))
extend = jax.jit(lambda state, xs: state.extend(xs))
merge = jax.jit(lambda state, other: state.merge(other))


@jax.jit
def scanned(state, xs):
    return jax.lax.scan(lambda state, x: (state.add(x), None), state, xs)[0]


@pytest.fixture(scope="module")
def path():
    """A correlated path in three dimensions around (5, -1, 0)."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((301, 3)) @ np.array([[1.0, 0.5, 0], [0, 1, 0.3], [0, 0, 2]])
    states = [noise[0]]
    for z in noise[1:]:
        states.append(0.7 * states[-1] + z)
    return np.array(states) + np.array([5.0, -1.0, 0.0])


def chains(key, n, runs, rho=RHO):
    """Stationary AR(1) chains (n, runs) of unit variance and mean zero."""
    z = jax.random.normal(key, (n, runs))
    return jax.lax.scan(lambda x, z: (rho * x + jnp.sqrt(1 - rho**2) * z,) * 2, z[0], z[1:])[1]


@pytest.fixture(scope="module")
def many():
    """Batch means of 2000 independent chains, as components of one stream, and the chains."""
    xs = jax.jit(partial(chains, n=LENGTH + 1, runs=2000))(jax.random.key(1))
    return extend(BatchMeans.empty(2000), xs), xs


@pytest.fixture(scope="module")
def stream():
    """A million float32 vectors around 1e4."""
    return (np.random.default_rng(3).standard_normal((2**20, 2)) + 1e4).astype(np.float32)


def own_pairs(path, lag, mean=None):
    """Covariance of pairs `lag` steps apart, and how many there are: NumPy on a stored path."""
    late, early = path[lag:], path[: len(path) - lag]
    if mean is None:
        late, early, n = late - late.mean(0), early - early.mean(0), len(late) - 1
    else:
        late, early, n = late - mean, early - mean, len(late)
    return late.T @ early / n


class TestMoments:
    def test_mean_and_covariance_are_those_of_numpy(self, path):
        for state in (scanned(Moments.empty(3), path), extend(Moments.empty(3), path)):
            np.testing.assert_allclose(state.mean, path.mean(0), rtol=32 * EPS, atol=32 * EPS)
            np.testing.assert_allclose(state.covariance, np.cov(path.T), rtol=1e-13, atol=1e-13)
            assert int(state.count) == len(path)

    def test_a_given_mean_is_not_estimated(self, path):
        mean = np.array([5.0, -1.0, 0.0])
        expected = (path - mean).T @ (path - mean) / len(path)
        for state in (scanned(Moments.empty(3, mean=mean), path), extend(Moments.empty(3, mean=mean), path)):
            np.testing.assert_array_equal(state.mean, mean)
            np.testing.assert_allclose(state.covariance, expected, rtol=1e-13, atol=1e-13)
        assert np.abs(expected - np.cov(path.T)).max() > 1e-3  # the two are not the same thing

    @pytest.mark.parametrize("mean", [None, np.array([5.0, -1.0, 0.0])], ids=["estimated", "given"])
    @pytest.mark.parametrize("cut", [0, 1, 120, 301])
    def test_merged_halves_are_the_whole(self, path, cut, mean):
        empty = Moments.empty(3, mean=mean)
        whole = scanned(empty, path)
        halves = merge(scanned(empty, path[:cut]), scanned(empty, path[cut:]))
        for a, b in zip(jax.tree.leaves((halves.mean, halves.covariance)), (whole.mean, whole.covariance), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)
        assert int(halves.count) == int(whole.count)

    def test_two_different_given_means_do_not_merge(self, path):
        one, other = (extend(Moments.empty(3, mean=np.full(3, m)), path) for m in (0.0, 1.0))
        assert np.isnan(merge(one, other).covariance).all()

    def test_the_estimated_mean_takes_its_own_variance_away_and_a_given_one_does_not(self):
        # Over many short chains: E of the centred covariance is 1 - Var(mean) n / (n - 1) + 1 / (n - 1).
        n, runs = 24, 4000
        xs = chains(jax.random.key(2), n + 1, runs).T[:, :, None]
        centred, given = (
            np.asarray(jax.vmap(lambda x, s=state: s.extend(x).covariance[0, 0])(xs))
            for state in (Moments.empty(1), Moments.empty(1, mean=np.zeros(1)))
        )
        correlation = RHO ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
        expected = (1 - correlation.mean()) * n / (n - 1)
        for values, truth in ((centred, expected), (given, 1.0)):
            assert_within_stderr(values.mean(), values.std(ddof=1) / np.sqrt(runs), truth, degrees=runs - 1)
        with pytest.raises(AssertionError):
            assert_within_stderr(centred.mean(), centred.std(ddof=1) / np.sqrt(runs), 1.0, degrees=runs - 1)

    def test_too_few_vectors_give_nan(self):
        empty = Moments.empty(2)
        assert np.isnan(empty.mean).all()
        assert np.isnan(empty.add(np.ones(2)).covariance).all()
        assert np.isnan(Moments.empty(2, mean=np.zeros(2)).covariance).all()
        assert np.isnan(merge(empty, empty).mean).all()
        np.testing.assert_array_equal(empty.extend(np.zeros((0, 2))).count, 0)

    def test_vmap_gives_each_stream_its_own(self, path):
        streams = jnp.stack([path, 2 * path])
        state = jax.vmap(lambda xs: scanned(Moments.empty(3), xs))(streams)
        np.testing.assert_allclose(state.covariance[1], 4 * state.covariance[0], rtol=1e-13)

    def test_derivatives_pass_through(self, path):
        # d(var)/dx_t = 2 (x_t - mean) / (n - 1)
        slope = jax.grad(lambda xs: scanned(Moments.empty(3), xs).covariance[0, 0])(jnp.asarray(path))
        expected = 2 * (path[:, 0] - path[:, 0].mean()) / (len(path) - 1)
        np.testing.assert_allclose(slope[:, 0], expected, rtol=1e-10, atol=1e-14)


class TestLongStreams:
    """Around 1e4, the steps of the mean are soon a thousandth of its last digit."""

    def test_mean_and_covariance_keep_the_digits_of_float32(self, stream):
        wide = stream.astype(np.float64)
        state = scanned(Moments.empty(2, dtype=jnp.float32), stream)
        assert state.covariance.dtype == jnp.float32
        # The mean to its last digit; value and rest together to the rounding of the deviations.
        np.testing.assert_allclose(state.mean, wide.mean(0), rtol=2.0**-24)
        exact = np.asarray(state.centre.value, np.float64) + np.asarray(state.centre.rest, np.float64)
        np.testing.assert_allclose(exact, wide.mean(0), rtol=0, atol=1e-6)
        np.testing.assert_allclose(state.covariance, np.cov(wide.T), rtol=0, atol=2e-6)

    def test_blocks_keep_them_too(self, stream):
        wide = stream.astype(np.float64)
        blocks = stream.reshape(-1, 1024, 2)
        state, _ = jax.lax.scan(lambda s, b: (s.extend(b), None), Moments.empty(2, dtype=jnp.float32), blocks)
        np.testing.assert_allclose(state.covariance, np.cov(wide.T), rtol=0, atol=4e-6)
        np.testing.assert_allclose(state.mean, wide.mean(0), rtol=2.0**-24)

    def test_single_precision_sums_would_not(self, stream):
        """The mutations: Welford without the second half of the digits, and the sum of squares."""

        def welford(carry, x):
            n, mean, square = carry
            away = x - mean
            mean = mean + away / (n + 1)
            return (n + 1, mean, square + away * (x - mean)), None

        zero = jnp.zeros(2, jnp.float32)
        (_, mean, _), _ = jax.lax.scan(welford, (jnp.float32(0), zero, zero), stream)
        wide = stream.astype(np.float64)
        assert np.abs(np.asarray(mean) - wide.mean(0)).max() > 3e-3  # three standard errors of the mean
        squares = np.mean(stream**2, 0, dtype=np.float32) - np.mean(stream, 0, dtype=np.float32) ** 2
        assert np.abs(squares - 1).max() > 0.5

    def test_batch_means_keep_them(self, stream):
        stream = stream[: 2**18]
        narrow = scanned(BatchMeans.empty(2, dtype=jnp.float32), stream)
        wide = scanned(BatchMeans.empty(2), stream.astype(np.float64))
        np.testing.assert_allclose(narrow.stderr, wide.stderr, rtol=1e-5)
        np.testing.assert_allclose(narrow.variance, wide.variance, rtol=1e-5)
        assert int(narrow.status) == 0

    def test_lagged_covariances_keep_them(self, stream):
        stream = stream[: 2**17]
        narrow = scanned(LaggedMoments.empty(2, (0, 2), dtype=jnp.float32), stream)
        for at, lag in enumerate((0, 2)):
            np.testing.assert_allclose(narrow.covariances[at], own_pairs(stream.astype(np.float64), lag), atol=1e-6)


class TestLaggedMoments:
    @pytest.mark.parametrize("mean", [None, np.array([5.0, -1.0, 0.0])], ids=["estimated", "given"])
    def test_covariances_are_those_of_the_stored_path(self, path, mean):
        state = extend(LaggedMoments.empty(3, LAGS, mean=mean), path)
        for at, lag in enumerate(LAGS):
            np.testing.assert_allclose(state.covariances[at], own_pairs(path, lag, mean), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(state.pairs, [len(path) - lag for lag in LAGS])

    def test_lag_zero_is_the_covariance(self, path):
        lagged, plain = extend(LaggedMoments.empty(3, (0,)), path), scanned(Moments.empty(3), path)
        np.testing.assert_allclose(lagged.covariances[0], plain.covariance, rtol=1e-13)

    @pytest.mark.parametrize("mean", [None, np.array([5.0, -1.0, 0.0])], ids=["estimated", "given"])
    def test_merged_streams_hold_the_pairs_of_both(self, path, mean):
        empty = LaggedMoments.empty(3, LAGS, mean=mean)
        one, other = path[:120], path[120:]
        state = merge(extend(empty, one), extend(empty, other))
        for at, lag in enumerate(LAGS):
            late = np.concatenate([one[lag:], other[lag:]])
            early = np.concatenate([part[: len(part) - lag] for part in (one, other)])
            m = (late.mean(0), early.mean(0)) if mean is None else (mean, mean)
            expected = (late - m[0]).T @ (early - m[1]) / (len(late) - (mean is None))
            np.testing.assert_allclose(state.covariances[at], expected, rtol=1e-12, atol=1e-12)

    def test_a_merged_stream_goes_on(self, path):
        empty = LaggedMoments.empty(3, LAGS)
        at_once = merge(extend(empty, path[:120]), extend(empty, path[120:]))
        later = extend(merge(extend(empty, path[:120]), extend(empty, path[120:150])), path[150:])
        np.testing.assert_allclose(later.covariances, at_once.covariances, rtol=1e-12, atol=1e-12)

    def test_lags_of_a_known_process(self):
        """Lagged covariances of AR(1) over many runs, in standard errors; a shift by one lag is seen."""
        runs, n = 400, 400
        xs = chains(jax.random.key(5), n + 1, runs).T[:, :, None]
        state = jax.vmap(lambda x: LaggedMoments.empty(1, (0, 1, 4), mean=np.zeros(1)).extend(x))(xs)
        found = np.asarray(state.covariances)[:, :, 0, 0]
        error = found.std(0, ddof=1) / np.sqrt(runs)
        assert_within_stderr(found.mean(0), error, RHO ** np.array([0, 1, 4]), degrees=runs - 1)
        with pytest.raises(AssertionError):
            assert_within_stderr(found.mean(0), error, RHO ** np.array([1, 2, 5]), degrees=runs - 1)

    def test_autocorrelation_time_by_the_initial_positive_sequence(self):
        runs, lags = 64, tuple(range(120))
        xs = jax.jit(partial(chains, n=LENGTH + 1, runs=runs))(jax.random.key(6))
        mean = np.zeros(1)
        state = jax.vmap(lambda x: LaggedMoments.empty(1, lags, mean=mean).extend(x[:, None]), in_axes=1)(xs)
        tau = np.asarray(jax.vmap(lambda s: s.autocorrelation_time)(state))[:, 0]
        # The variance of a sum windowed at W is 2 (2 W + 1) tau^2 / n; windows end after 3 to 6 decay times of 4.5. A
        # random end comes late rather than early: the mean is high, by less than the scatter of a single run.
        wide = TAU * np.sqrt(2 * (2 * 27 + 1) / LENGTH)
        error = wide / np.sqrt(runs)

        def fits(tau):
            return TAU - 4 * error < tau.mean() < TAU + wide and tau.std() < 1.5 * wide

        assert fits(tau)
        every_lag = np.asarray(2 * state.autocorrelation[:, :, 0].sum(1) - 1)
        assert not fits(every_lag)  # without an end the noise of far lags adds up
        assert not fits((1 + tau) / 2)  # the other definition: 1/2 + sum
        size = jax.vmap(lambda s: s.effective_size)(state)
        np.testing.assert_allclose(size[:, 0] * tau, LENGTH, rtol=1e-12)
        cut = jax.tree.map(lambda x: x[0], state)
        by_hand, rho = -1.0, np.asarray(cut.autocorrelation)[:, 0]
        for pair in (rho[0::2] + rho[1::2]).tolist():
            if pair <= 0:
                break
            by_hand += 2 * pair
        np.testing.assert_allclose(tau[0], by_hand, rtol=1e-12)

    def test_lags_that_do_not_reach_give_nan(self):
        xs = chains(jax.random.key(7), 2000, 1)
        assert np.isnan(extend(LaggedMoments.empty(1, (0, 1, 2, 3)), xs).autocorrelation_time).all()

    def test_the_order_of_the_lags_does_not_matter(self, path):
        near, far = (extend(LaggedMoments.empty(3, lags), path) for lags in (range(20), tuple(range(19, -1, -1))))
        np.testing.assert_allclose(near.autocorrelation_time, far.autocorrelation_time, rtol=1e-12)

    def test_too_few_states_give_nan(self):
        state = extend(LaggedMoments.empty(1, (0, 5)), np.arange(6.0)[:, None])
        assert np.isfinite(state.covariances[0])
        assert np.isnan(state.covariances[1])  # one pair, no degree of freedom
        assert np.isnan(extend(LaggedMoments.empty(1, (0, 5), mean=np.zeros(1)), np.ones((5, 1))).covariances[1])


def batches_by_hand(xs, places):
    """Standard error from batches of the length that the number of vectors asks for."""
    length = 1
    while len(xs) // length >= places:
        length *= 2
    full = len(xs) // length
    means = xs[: full * length].reshape(full, length, -1).mean(1)
    variance = length * means.var(0, ddof=1)
    return np.sqrt(variance / len(xs)), length, full


class TestBatchMeans:
    @pytest.mark.parametrize("n", [2, 7, 8, 9, 63, 64, 100, 301])
    def test_one_pass_gives_the_batches_of_the_stored_path(self, path, n):
        xs = path[:n]
        state = scanned(BatchMeans.empty(3, batches=8), xs)
        stderr, length, full = batches_by_hand(xs, 8)
        assert (int(state.length), int(state.full), int(state.count)) == (length, full, n)
        np.testing.assert_allclose(state.stderr, stderr, rtol=1e-12)
        np.testing.assert_allclose(state.mean, xs.mean(0), rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("cut", [0, 3, 17, 64, 150, 260])
    def test_merged_streams_hold_the_batches_of_both(self, path, cut):
        empty = BatchMeans.empty(3, batches=8)
        one, other = path[:cut], path[cut:]
        state = merge(scanned(empty, one), scanned(empty, other))
        np.testing.assert_allclose(state.mean, path.mean(0), rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(state.scatter.value, path.var(0) * len(path), rtol=1e-12)
        length = int(state.length)
        means = [
            part[: len(part) // length * length].reshape(-1, length, 3).mean(1) for part in (one, other) if len(part)
        ]
        means = np.concatenate(means)
        assert int(state.full) == len(means)
        assert 4 <= len(means) < 8 or length == 1 or min(len(one), len(other)) < length * 4
        np.testing.assert_allclose(state.long_run_variance, length * means.var(0, ddof=1), rtol=1e-12)

    def test_a_merged_stream_goes_on(self, path):
        """After a merge, batches fill and double as before: of 4 + 4 and 100 with 8 places."""
        empty = BatchMeans.empty(3, batches=8)
        state = merge(scanned(empty, path[:4]), scanned(empty, path[4:8]))
        state = scanned(state, path[8:])
        np.testing.assert_allclose(state.stderr, batches_by_hand(path, 8)[0], rtol=1e-12)
        np.testing.assert_allclose(state.mean, path.mean(0), rtol=1e-13, atol=1e-13)

    def test_standard_errors_are_those_of_the_mean(self, many):
        state, _ = many
        nu = int(state.degrees)
        assert nu == 62
        # Student's law with nu degrees of freedom; batches of 7 tau miss the fraction tau / (2 length) of the variance.
        missed = 2 * RHO / ((1 - RHO**2) * 64)
        z = np.asarray(state.mean / state.stderr) * np.sqrt((nu - 2) / nu * (1 - missed))
        kurtosis = 3 * (nu - 2) / (nu - 4)
        assert_unit_variance(z, kurtosis=kurtosis)
        for naive in (z * np.sqrt(TAU), z / np.sqrt(1.25)):  # independent samples assumed; batches of 2 tau
            with pytest.raises(AssertionError):
                assert_unit_variance(naive, kurtosis=kurtosis)

    def test_variance_and_time_and_size_are_the_closed_forms(self, many):
        state, xs = many
        n, runs = int(state.count), xs.shape[1]
        exact = LENGTH * (1 - 2 * RHO * (1 - RHO**LENGTH) / (LENGTH * (1 - RHO**2))) / TAU
        for found, truth in (
            (state.variance, 1.0),
            (state.long_run_variance, TAU * (1 - 2 * RHO / (64 * (1 - RHO**2)))),
            (state.autocorrelation_time, None),
            (1 / state.effective_size, None),
        ):
            values = np.asarray(found)
            error = values.std(ddof=1) / np.sqrt(runs)
            if truth is not None:
                assert_within_stderr(values.mean(), error, truth, degrees=runs - 1)
                with pytest.raises(AssertionError):
                    assert_within_stderr(1.05 * values.mean(), error, truth, degrees=runs - 1)
        # A ratio of two estimates: the denominator varies by sqrt(2 (1 + r) / (1 - r) / n), r = rho^2, of the size 3 %,
        # and biases the ratio by less than its square, 0.1 %; what batches of this length miss is known.
        tau = np.asarray(state.autocorrelation_time).mean()
        missed = 2 * RHO / (64 * (1 - RHO**2))
        np.testing.assert_allclose(tau, TAU * (1 - missed), rtol=0.02)
        np.testing.assert_allclose(np.mean(1 / state.effective_size) * exact, 1 - missed, rtol=0.02)
        np.testing.assert_allclose(state.effective_size, n / state.autocorrelation_time, rtol=1e-12)

    def test_short_streams_are_flagged(self, many):
        _, xs = many
        few = int(Status.FEW_SAMPLES)
        empty = BatchMeans.empty(1)
        flags = [int(extend(empty, xs[:n, :1]).status) for n in (1, 2, 40, 63 * 8)]
        assert flags == [few] * 4
        assert int(extend(empty, jnp.tile(xs[:, 3:4], (5, 1))).status) == 0  # 315 * 64: batches of 512, 57 tau
        assert np.isnan(extend(empty, xs[:1, :1]).stderr).all()
        assert np.isnan(empty.mean).all()

    def test_white_noise_needs_no_long_batches(self):
        xs = jax.random.normal(jax.random.key(9), (63 * 64, 1))
        state = extend(BatchMeans.empty(1), xs)
        assert int(state.status) == 0
        # (f - 1) tau has a chi-squared law over 62 degrees of freedom: relative scatter 0.18.
        assert abs(float(state.autocorrelation_time[0]) - 1) < 5 * np.sqrt(2 / 62)

    def test_a_constant_stream_has_no_error_and_no_time(self):
        state = extend(BatchMeans.empty(1, batches=4), np.full((40, 1), 3.0))
        assert float(state.stderr[0]) == 0
        assert np.isnan(state.autocorrelation_time).all()
        assert int(state.status) == 0

    def test_a_nan_in_the_stream_is_flagged(self, path):
        bad = path.copy()
        bad[50, 1] = np.nan
        state = scanned(BatchMeans.empty(3, batches=8), bad)
        assert int(state.status) & int(Status.NOT_FINITE)
        assert np.isnan(state.stderr[1])

    def test_vmap_and_eager_give_the_same(self, path):
        batch = jax.vmap(lambda xs: scanned(BatchMeans.empty(3, batches=8), xs))(jnp.stack([path, path[::-1]]))
        state = BatchMeans.empty(3, batches=8)
        for x in path[:20]:
            state = add(state, x)
        np.testing.assert_allclose(state.stderr, batches_by_hand(path[:20], 8)[0], rtol=1e-12)
        np.testing.assert_allclose(batch.stderr[0], batches_by_hand(path, 8)[0], rtol=1e-12)
        assert int(batch.full[1]) == int(batch.full[0])


class TestRefusals:
    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (lambda: Moments.empty(0), "dim"),
            (lambda: Moments.empty(2, mean=np.zeros(3)), "mean"),
            (lambda: Moments.empty(2, dtype=jnp.complex128), "dtype"),
            (lambda: Moments.empty(2).add(np.zeros(3)), "x must"),
            (lambda: Moments.empty(2).add(np.zeros(2) * 1j), "x must"),
            (lambda: Moments.empty(2).extend(np.zeros(2)), "xs must"),
            (lambda: Moments.empty(2).merge(Moments.empty(3)), "dim"),
            (lambda: Moments.empty(2).merge(Moments.empty(2, mean=np.zeros(2))), "known"),
            (lambda: LaggedMoments.empty(2, ()), "lags"),
            (lambda: LaggedMoments.empty(2, (1, 1)), "lags"),
            (lambda: LaggedMoments.empty(2, (-1,)), "lags"),
            (lambda: LaggedMoments.empty(2, (1.5,)), "lags"),
            (lambda: LaggedMoments.empty(2, (1, 2)).autocorrelation, "lags must contain 0"),
            (lambda: LaggedMoments.empty(2, (0, 1, 2)).autocorrelation_time, "even number"),
            (lambda: LaggedMoments.empty(2, (0, 1)).merge(LaggedMoments.empty(2, (0, 2))), "lags"),
            (lambda: BatchMeans.empty(2, batches=5), "batches"),
            (lambda: BatchMeans.empty(2, batches=2), "batches"),
            (lambda: BatchMeans.empty(2, batches=8).merge(BatchMeans.empty(2)), "places"),
            (lambda: BatchMeans.empty(2).add(np.zeros((2, 1))), "x must"),
        ],
    )
    def test_bad_input_is_named(self, make, name):
        with pytest.raises(ValueError, match=name):
            make()
