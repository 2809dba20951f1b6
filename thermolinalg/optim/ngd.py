r"""Natural gradient: steps against the gradient in the metric that the model's curvature makes, exactly."""

import optax

from thermolinalg.optim.books import Scalar, Scheduled
from thermolinalg.optim.fisher import Columns, exact
from thermolinalg.optim.lanes import Lane
from thermolinalg.optim.ngd_step import NaturalStep
from thermolinalg.optim.task import Task
from thermolinalg.optim.trust import LevenbergMarquardt, Limit


def ngd(
    task: Task,
    learning_rate: Scheduled,
    *,
    damping: Scheduled | LevenbergMarquardt,
    lane: Lane | None = None,
    fisher: Columns = exact,
    momentum: Scheduled = 0.0,
    l2: Scalar = 0.0,
    weight_decay: Scheduled = 0.0,
    limit: Limit | None = None,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Natural gradient descent, for any model and loss.

    .. math:: \theta \leftarrow \theta - \alpha x, \qquad
        (C + \lambda I)\, x = g + \lambda \mu\, x_\text{old}

    with the Gauss-Newton or Fisher matrix `C` of the batch, which is not approximated.

    Parameters
    ----------
    task : Task
        Model and loss: :func:`~thermolinalg.optim.task`. Layers need not be tagged; where they are, a step costs little
        more than its columns.
    learning_rate : float, > 0, or schedule
    damping : float, > 0, schedule, or LevenbergMarquardt
    lane : Lane
        How the system is solved: :class:`~thermolinalg.optim.Dual` among the rows of the batch,
        :class:`~thermolinalg.optim.Primal` among parameters, :class:`~thermolinalg.optim.Iterative` without a matrix;
        the first two with any solver of this package. By default :func:`~thermolinalg.optim.choose` decides.
    fisher : callable
        Which curvature: ``exact``, ``monte_carlo``, ``propagation``, ``empirical`` of :mod:`thermolinalg.optim`.
    momentum : float in [0, 1], or schedule
        :math:`\mu`, the share of the last direction that damping pulls towards (SPRING).
    l2 : float, >= 0
        Coefficient of a penalty :math:`\tfrac w2 \lVert\theta\rVert^2` that is not in the loss: added to gradient and
        curvature.
    weight_decay : float, >= 0, or schedule
        Decoupled: shrinks parameters by :math:`\alpha w \theta` and enters neither.
    limit : KLClip, NormConstraint or callable
        Shortens steps.
    seed : int
        Of all random numbers.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, batch=(inputs, targets))``, optionally with ``value``, the loss. ``state.stats``
        tells what a step did.

    Raises
    ------
    ValueError
        If a number is out of range; and, from ``update``, if ``batch`` or ``params`` is missing, trees do not match or
        the loss has no curvature that can be used.

    Notes
    -----
    A step whose gradient or loss is not finite is refused and counted: parameters and momentum stay. One whose solver
    fails goes along the plain gradient, as far as the last good direction, and is counted too. With ``momentum`` 1 a
    direction is one implicit Euler step of length :math:`1/\lambda` of the flow :math:`\dot x = g - Cx` from the last.

    ``optax.MultiSteps`` hands on the batch of the last micro-step only: the curvature is then of that one, and the
    gradient, which is of all, is solved for as it is.

    References
    ----------
    Amari, *Natural gradient works efficiently in learning*, Neural Computation 10 (1998); Goldshlager, Abrahamsen and
    Lin, arXiv:2401.10190 (SPRING).

    Examples
    --------
    Linear regression is solved in one step.

    >>> import jax, jax.numpy as jnp, optax
    >>> from thermolinalg import optim
    >>> params = {"w": jnp.zeros((3, 2))}
    >>> x = jax.random.normal(jax.random.key(0), (32, 3))
    >>> batch = (x, x @ jnp.ones((3, 2)))
    >>> task = optim.task(lambda params, x: x @ params["w"], optim.SquaredError(), params, x)
    >>> opt = optim.ngd(task, 1.0, damping=1e-8)
    >>> updates, state = opt.update(jax.grad(task.value)(params, batch), opt.init(params), params, batch=batch)
    >>> bool(task.value(optax.apply_updates(params, updates), batch) < 1e-6)
    True
    """
    rule = NaturalStep(task, learning_rate, damping, lane, fisher, momentum, l2, weight_decay, limit, seed)
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)


def scale_by_ngd(
    task: Task,
    *,
    damping: Scheduled,
    lane: Lane | None = None,
    fisher: Columns = exact,
    momentum: Scheduled = 0.0,
    l2: Scalar = 0.0,
    limit: Limit | None = None,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Return :math:`+x`, the natural gradient itself, for a chain of transformations.

    Parameters
    ----------
    task, damping, lane, fisher, momentum, l2, limit, seed
        As for :func:`ngd`. The damping is a number or a schedule: what adapts to the success of a step has to know it.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        As from :func:`ngd`.

    Raises
    ------
    ValueError
        As :func:`ngd`.

    Examples
    --------
    Natural gradients with heavy-ball momentum:

    >>> import jax, jax.numpy as jnp, optax
    >>> from thermolinalg import optim
    >>> w, x = jnp.ones((3, 2)), jnp.ones((4, 3))
    >>> batch, task = (x, jnp.zeros((4, 2))), optim.task(lambda w, x: x @ w, optim.SquaredError(), w, x)
    >>> opt = optax.chain(optim.scale_by_ngd(task, damping=1e-2), optax.trace(0.9), optax.scale(-0.1))
    >>> updates, state = opt.update(jax.grad(task.value)(w, batch), opt.init(w), w, batch=batch)
    >>> bool(jnp.all(updates < 0))
    True
    """
    if isinstance(damping, LevenbergMarquardt):
        raise ValueError("damping that adapts has to know the step, which the rest of the chain decides; use optim.ngd")
    rule = NaturalStep(task, None, damping, lane, fisher, momentum, l2, 0.0, limit, seed)
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)
