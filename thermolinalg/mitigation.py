"""What to do about a device that is not exact: pool roundings or chips, know what pooling leaves, calibrate."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from thermolinalg.converters import Converter
from thermolinalg.device import Device
from thermolinalg.operators import Dense, as_operator
from thermolinalg.plan import Plan
from thermolinalg.primitives import solve
from thermolinalg.ranges import check_whole
from thermolinalg.solution import Solution, Status


def pool(verb: Callable[[jax.Array], Solution], *, key: jax.Array, members: int) -> Solution:
    r"""Average the answers of several roundings of a matrix, or of several chips.

    .. math:: \bar x = \frac1K \sum_k x_k, \qquad
        \mathtt{stderr}^2 = \frac{1}{K(K-1)} \sum_k (x_k - \bar x)^2

    Parameters
    ----------
    verb : callable
        From a key to a solution: a run on a device that rounds couplings at random
        (``Converter(bits, stochastic=True)``), or on a chip that the key chooses.
    key : PRNG key
    members : int, >= 2
        K.

    Returns
    -------
    Solution
        ``stats`` with ``members``, ``scatter`` (standard deviation of one member) and ``failed``, the number of members
        whose couplings were not positive definite. One such member spoils the mean; ``status`` says so.

    Raises
    ------
    ValueError
        If `members` is less than 2.

    Notes
    -----
    The error of one rounding is of first order in the step of the converter and has no mean; what is left of the mean
    of many is of second order, see :func:`rounding_bias`, and not part of ``stderr``. ``stderr`` follows Student's law
    with K - 1 degrees of freedom. Pooling fails where a step is not small against the smallest eigenvalue: see
    :func:`rounding_margin`. Averaging over chips leaves a second-order bias as well.

    References
    ----------
    Aifer et al., *Error mitigation for thermodynamic computing*, arXiv:2401.16231.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from thermolinalg.primitives import inv
    >>> A = jnp.array([[1.0, 0.31], [0.31, 0.7]])
    >>> device = Device(matrix_dac=Converter(bits=5, stochastic=True))
    >>> plan = Plan(burn_in=50.0, duration=1e5)
    >>> C = pool(lambda key: inv(A, key=key, plan=plan, device=device), key=jax.random.key(0), members=64)
    >>> bool(jnp.linalg.norm(C.value - jnp.linalg.inv(A)) < 0.02)
    True
    """
    check_whole("members", members, 2)
    answers = jax.lax.map(verb, jax.random.split(key, members))
    value = jnp.mean(answers.value, 0)
    square = jnp.sum(jnp.abs(answers.value - value[None]) ** 2, 0) / (members - 1)
    # What one member cannot avoid has to be known of none: the pool is there for it.
    flags = jnp.bitwise_or.reduce(answers.status & ~int(Status.IMPRECISE))
    failed = jnp.sum((answers.status & int(Status.NOT_POSITIVE_DEFINITE)) != 0)
    stats = {"members": members, "scatter": jnp.sqrt(square), "failed": failed}
    method = f"The answer is the mean of {members} members, each with couplings of its own."
    return Solution(value, jnp.sqrt(square / members), flags, stats, method)


def rounding_bias(A: Any, converter: Converter) -> jax.Array:
    r"""Return what is left, in the mean, of the inverse of a matrix that is rounded at random.

    .. math:: E\,\tilde A^{-1} - A^{-1} = A^{-1}\,E[E A^{-1} E]\,A^{-1} + O(q^3), \qquad
        E[E A^{-1} E]_{ii} = \sum_k V_{ik} (A^{-1})_{kk}, \quad E[E A^{-1} E]_{ij} = V_{ij} (A^{-1})_{ij}

    with :math:`V_{ij} = q^2 p_{ij} (1 - p_{ij})`, where p is the fraction of a step q by which an entry exceeds the
    level below it.

    Parameters
    ----------
    A : array (d, d) or dense operator
        Symmetric positive definite; real.
    converter : Converter
        For its step; that it rounds at random is taken for granted.

    Returns
    -------
    Array, shape (d, d)
        Positive semi-definite: on average, inverses come out too large.

    Raises
    ------
    ValueError
        If `A` is not dense and real.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> bias = rounding_bias(jnp.array([[1.0, 0.31], [0.31, 0.7]]), Converter(bits=5))
    >>> bool(jnp.linalg.norm(bias) < 0.02)
    True
    """
    matrix = _real_matrix(A)
    variance = _variance(matrix, converter)
    inverse = jnp.linalg.inv(matrix)
    middle = variance * inverse
    diagonal = jnp.eye(len(matrix), dtype=bool)
    middle = jnp.where(diagonal, (variance @ jnp.diagonal(inverse))[None], middle)
    return inverse @ middle @ inverse


def rounding_margin(A: Any, converter: Converter) -> jax.Array:
    r"""Return how far random rounding stays from making a matrix indefinite.

    .. math:: \lambda_{\min}(A) \Big/ 2 \max_i \Bigl(\sum_j V_{ij}\Bigr)^{1/2}

    Parameters
    ----------
    A : array (d, d) or dense operator
        Symmetric positive definite; real.
    converter : Converter

    Returns
    -------
    Array, shape ()
        Smallest eigenvalue over the typical norm of the rounding error, the edge of the spectrum of a random symmetric
        matrix with these variances. Pooling helps well above 1; below about 1 members fail, or nearly.

    Raises
    ------
    ValueError
        If `A` is not dense and real.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> A = jnp.array([[1.0, 0.31], [0.31, 0.7]])
    >>> bool(rounding_margin(A, Converter(bits=3)) < 2 < rounding_margin(A, Converter(bits=8)))
    True
    """
    matrix = _real_matrix(A)
    spread = 2 * jnp.sqrt(jnp.max(jnp.sum(_variance(matrix, converter), 1)))
    lowest = jnp.linalg.eigvalsh(matrix)[0]
    return lowest / spread


_FORCE = 0.75


def calibrate(device: Device, *, key: jax.Array, nodes: int = 8, runs: int = 16, time: float = 100.0) -> Device:
    """Measure gain and offset of the way from a force to a reading, and return the device with both corrected for.

    Identity couplings are written, and read under the forces 3/4 and -3/4, well inside one range of the
    read-out: the difference of the means tells the gain, half their sum the offset.

    Parameters
    ----------
    device : Device
        With an ``adc``.
    key : PRNG key
    nodes : int, >= 1
        Nodes that take part; their errors are averaged.
    runs : int, >= 1
        Runs under each force.
    time : float, > 0
        Duration of each, in natural units.

    Returns
    -------
    Device
        With the residual gain and offset in its ``adc``: what a host leaves that corrects all readings by what was
        found. The gains of both other converters are corrected for too, for linear systems; a covariance goes with
        other powers of them, and is right if only the read-out is at fault.

    Raises
    ------
    ValueError
        If the device has no ``adc``.

    Notes
    -----
    The residual is of the size of the noise of all readings together, plus the rounding error where no noise spreads
    readings over levels.

    Examples
    --------
    >>> import jax
    >>> device = Device(beta=1e4, adc=Converter(bits=14, gain=0.03, offset=0.01))
    >>> better = calibrate(device, key=jax.random.key(0))
    >>> bool(abs(better.adc.gain) < 0.003), bool(abs(better.adc.offset) < 0.003)
    (True, True)
    """
    if device.adc is None:
        raise ValueError("the device has no adc, so there is nothing to calibrate: its readings are exact")
    check_whole("nodes", nodes, 1)
    check_whole("runs", runs, 1)
    first, second = jax.random.split(key)
    program = device.program(jnp.eye(nodes), key=first)
    force = jnp.full((nodes, runs), _FORCE)
    # One program, one range: both signs go through the same converter at the same scale.
    both = jnp.concatenate([force, -force], 1)
    reading = solve(program, both, key=second, plan=Plan(20.0, time)).value
    up, down = jnp.mean(reading[:, :runs]), jnp.mean(reading[:, runs:])
    gain, adc = (up - down) / (2 * _FORCE) - 1, device.adc
    scale = adc.scale(jnp.asarray(_FORCE, reading.dtype))
    offset = (up + down) / 2 / scale
    limit = None if adc.full_scale is None else adc.full_scale / (1 + gain)
    left = replace(
        adc, gain=(1 + adc.gain) / (1 + gain) - 1, offset=(adc.offset - offset) / (1 + gain), full_scale=limit
    )
    return replace(device, adc=left)


def _real_matrix(A: Any) -> jax.Array:
    operator = as_operator(A)
    if not isinstance(operator, Dense) or operator.components == 2:
        raise ValueError(f"A must be a dense real matrix, got {type(operator).__name__} of {operator.dtype}")
    return operator.matrix


def _variance(matrix: jax.Array, converter: Converter) -> jax.Array:
    """Variance of every entry that is rounded at random."""
    step = converter.step(converter.scale(jnp.max(jnp.abs(matrix))))
    part = matrix / step - jnp.floor(matrix / step)
    return step**2 * part * (1 - part)
