"""The device as a linear solver of lineax."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from thermolinalg.device import Device, Program
from thermolinalg.laws import Scalar
from thermolinalg.operators import Dense, Diagonal, MatrixFree, Operator, as_inexact, as_operator, is_concrete
from thermolinalg.plan import Plan, check_plan
from thermolinalg.primitives import solve
from thermolinalg.solution import Status


class _Packed(eqx.Module):
    """A tree taken apart: equinox puts placeholders for leaves, which our own types would refuse."""

    leaves: list[Any]
    structure: Any = eqx.field(static=True, repr=False)

    def __init__(self, tree: Any):
        self.leaves, self.structure = jax.tree.flatten(tree)

    def open(self) -> Any:
        return jax.tree.unflatten(self.structure, self.leaves)


class SolverState(eqx.Module):
    """What ``ThermodynamicSolver.init`` returns: the couplings, written once for many solves.

    Parameters
    ----------
    program : Program
        The positive definite operator on vectors of shape (d,), written to the device. Bring your own to set what
        lineax does not know of, such as ``max_steps`` of a matrix-free operator.
    negative : bool
        The program holds minus the operator.
    conjugate : bool
        The system of the complex conjugate operator is meant, which is also the transpose.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, lineax, thermolinalg as tla
    >>> A = lineax.MatrixLinearOperator(4.0 * jnp.eye(2), lineax.positive_semidefinite_tag)
    >>> solver = ThermodynamicSolver(jax.random.key(0), plan=tla.Plan(burn_in=10.0, duration=1e6))
    >>> state = SolverState(tla.Device().program(4.0 * jnp.eye(2)))
    >>> lineax.linear_solve(A, jnp.ones(2), solver, state=state).value.round(2).tolist()
    [0.25, 0.25]
    """

    _program: _Packed
    negative: bool = eqx.field(static=True)
    conjugate: bool = eqx.field(static=True)

    def __init__(self, program: Program, negative: bool = False, conjugate: bool = False):
        self._program, self.negative, self.conjugate = _Packed(program), negative, conjugate

    @property
    def program(self) -> Program:
        """The program."""
        return self._program.open()


class ThermodynamicSolver(lx.AbstractLinearSolver[SolverState]):
    r"""A lineax solver that reads :math:`A^{-1}b` off a relaxing device, by :func:`thermolinalg.solve`.

    .. math:: dx = -(Ax - b)\,dt + \sqrt{2/\beta}\,dW

    Parameters
    ----------
    key : PRNG key
        Every solve with this solver draws the same noise. A new key does not compile again.
    rtol : float, in (0, 1), default 1e-2
        Relative error in the 2-norm to plan for. Not together with `plan`.
    confidence : float, in (0, 1)
        Fraction of runs that keep to `rtol`.
    plan : Plan, optional
        Times of the run. Without one, every right-hand side is planned for, those of derivatives too.
    device : Device, optional
        The ideal overdamped device at beta = 1 by default.

    Raises
    ------
    ValueError
        If the key is none or a tolerance is out of range; from ``init`` and ``lineax.linear_solve``, if the operator is
        not square, not tagged positive or negative semidefinite, or options are given.

    Notes
    -----
    The operator must be definite, although lineax has tags for semidefinite only. ``linear_solve`` works under ``jit``,
    where values cannot be looked at: an operator that is not definite gives ``RESULTS.singular``, a Lanczos process
    that has not converged ``RESULTS.max_steps_reached``. What leaves a usable answer (``LOW_PRECISION``,
    ``UNRESOLVED``) is only in the flags, ``solution.stats["status"]``; ``stats`` also has ``stderr`` (like the vector),
    ``plan`` and ``time_constants``.

    ``jax.vmap`` over vectors or operators uses one key, hence one noise, for all members: make one solver for each key
    inside the function that is mapped if they should be independent.

    Derivatives are those of lineax: a second linear system, solved by this solver with the same key. They have noise of
    their own: of relative size `rtol` where each system is planned, and with a `plan` as large as that of the value
    itself, however small the tangent. It is correlated with the noise of the value, so that the gradient with respect
    to the operator, a product of two answers, has a bias of second order in the noise that averaging over keys does not
    remove. Derivatives of :func:`thermolinalg.solve` bring no noise of their own.

    Matrices and diagonals are factored; any other operator is used by its products. Vectors may be pytrees.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, lineax
    >>> A = lineax.MatrixLinearOperator(jnp.array([[3.0, 2.0], [2.0, 4.0]]), lineax.positive_semidefinite_tag)
    >>> x = lineax.linear_solve(A, jnp.array([1.0, 2.0]), ThermodynamicSolver(jax.random.key(0), rtol=0.05))
    >>> bool(jnp.all(jnp.abs(x.value - jnp.array([0.0, 0.5])) < 4 * x.stats["stderr"]))
    True
    """

    key: jax.Array
    rtol: Scalar | None
    confidence: Scalar
    plan: Plan | None
    _device: _Packed

    def __init__(
        self,
        key: jax.Array,
        rtol: Scalar | None = None,
        confidence: Scalar = 0.95,
        plan: Plan | None = None,
        device: Device | None = None,
    ):
        if not _is_key(key):
            raise ValueError(f"key must be one PRNG key, such as jax.random.key(0); got {key!r}")
        if plan is not None and rtol is not None:
            raise ValueError("give a plan or rtol, not both: a plan already fixes the times")
        for name, value in (("rtol", rtol), ("confidence", confidence)):
            if (
                value is not None
                and is_concrete(value)
                and not np.all((np.asarray(value) > 0) & (np.asarray(value) < 1))
            ):
                raise ValueError(f"{name} must lie between 0 and 1, got {value}")
        self.key, self.rtol, self.confidence = key, rtol, confidence
        self.plan = None if plan is None else check_plan(plan)
        self._device = _Packed(Device() if device is None else device)

    @property
    def device(self) -> Device:
        """The device."""
        return self._device.open()

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> SolverState:
        """Write the couplings; raise if the operator is known not to be definite."""
        _refuse_options(options)
        inside, outside = operator.in_structure(), operator.out_structure()
        if _shapes(inside) != _shapes(outside):
            raise ValueError(f"the operator must be square, got one from {inside} to {outside}")
        positive = lx.is_positive_semidefinite(operator)
        if not (positive or lx.is_negative_semidefinite(operator)):
            raise ValueError(
                f"the operator, a {type(operator).__name__}, is tagged neither positive nor negative semidefinite; if "
                "it is, say so with lineax.TaggedLinearOperator(operator, lineax.positive_semidefinite_tag); if not, "
                "solve the normal equations"
            )
        return SolverState(self.device.program(_couplings(operator, 1.0 if positive else -1.0)), not positive)

    def compute(self, state: SolverState, vector: Any, options: dict[str, Any]) -> tuple[Any, lx.RESULTS, dict]:
        """Run once and read."""
        _refuse_options(options)
        force = _ravel(vector)
        answer = solve(
            state.program,
            force.conj() if state.conjugate else force,
            key=self.key,
            rtol=self.rtol,
            confidence=self.confidence,
            plan=self.plan,
        )
        value = -answer.value if state.negative else answer.value
        value = value.conj() if state.conjugate else value
        stats = {"stderr": _unravel(answer.stderr, jax.tree.map(jnp.real, vector)), "status": answer.status}
        stats |= {name: answer.stats[name] for name in ("plan", "time_constants")}
        return _unravel(value, vector), _result(answer.status), stats

    def transpose(self, state: SolverState, options: dict[str, Any]) -> tuple[SolverState, dict[str, Any]]:
        """Return the state of the transpose, which for a Hermitian operator is the conjugate."""
        return self.conj(state, options)

    def conj(self, state: SolverState, options: dict[str, Any]) -> tuple[SolverState, dict[str, Any]]:
        """Return the state of the complex conjugate operator; nothing is factored again."""
        is_complex = state.program.operator.components == 2
        return SolverState(state.program, state.negative, is_complex and not state.conjugate), options

    def assume_full_rank(self) -> bool:
        """Return True: a definite operator has an inverse. What lineax asks from 0.1.0 on."""
        return True

    def allow_dependent_columns(self, operator: lx.AbstractLinearOperator) -> bool:
        """Return False, as above. What lineax before 0.1.0 asks."""
        return False

    def allow_dependent_rows(self, operator: lx.AbstractLinearOperator) -> bool:
        """Return False, as above. What lineax before 0.1.0 asks."""
        return False


class _Product(eqx.Module):
    """Product of a lineax operator with a block of raveled vectors."""

    arrays: Any
    rest: Any = eqx.field(static=True)
    sign: float = eqx.field(static=True)

    def __call__(self, block: jax.Array) -> jax.Array:
        operator = eqx.combine(self.arrays, self.rest)

        def product(column: jax.Array) -> jax.Array:
            return self.sign * _ravel(operator.mv(_unravel(column, operator.in_structure()))).astype(block.dtype)

        return jax.vmap(product, in_axes=1, out_axes=1)(block)


def _couplings(operator: lx.AbstractLinearOperator, sign: float) -> Operator:
    """Return a lineax operator, times a sign, as one of ours on raveled vectors."""
    while isinstance(operator, lx.TaggedLinearOperator):
        operator = operator.operator
    if isinstance(operator, lx.DiagonalLinearOperator):
        values = sign * lx.diagonal(operator)
        return Dense(jnp.diag(values)) if jnp.iscomplexobj(values) else Diagonal(values)
    if isinstance(operator, lx.MatrixLinearOperator | lx.PyTreeLinearOperator):
        return as_operator(sign * operator.as_matrix(), "the operator")
    leaves = jax.tree.leaves(operator.in_structure())
    arrays, rest = eqx.partition(lx.linearise(operator), eqx.is_array)
    # The type is checked as that of a matrix would be.
    dtype = as_inexact(jnp.zeros(0, _common_type(leaves)), "the operator").dtype
    return MatrixFree(_Product(arrays, rest, sign), operator.in_size(), dtype)


def _result(status: jax.Array) -> lx.RESULTS:
    """Faults that leave no answer; lineax itself tells apart a right-hand side that is not finite."""
    unconverged = (status & int(Status.NOT_CONVERGED)) != 0
    failed = (status & int(Status.NOT_POSITIVE_DEFINITE | Status.NOT_FINITE)) != 0
    usable = lx.RESULTS.where(unconverged, lx.RESULTS.max_steps_reached, lx.RESULTS.successful)
    return lx.RESULTS.where(failed, lx.RESULTS.singular, usable)


def _refuse_options(options: dict[str, Any]) -> None:
    if options:
        raise ValueError(
            f"ThermodynamicSolver takes no options, got {sorted(options)}; set fields of the solver instead"
        )


def _shapes(tree: Any) -> tuple[Any, ...]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _is_key(key: Any) -> bool:
    if not isinstance(key, jax.Array):
        return False
    return key.shape == () if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key.dtype == np.uint32


def _common_type(leaves: list[Any]) -> np.dtype:
    return np.result_type(*(leaf.dtype for leaf in leaves))


def _ravel(tree: Any) -> jax.Array:
    """Put all leaves into one vector of their common type, in the order of lineax's ``as_matrix``."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([leaf.ravel().astype(_common_type(leaves)) for leaf in leaves])


def _unravel(vector: jax.Array, like: Any) -> Any:
    """Cut a vector into the leaves of a tree."""
    leaves, structure = jax.tree.flatten(like)
    parts = jnp.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
    shaped = [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)
