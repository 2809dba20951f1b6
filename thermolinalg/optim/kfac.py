r"""K-FAC: natural gradient with a Kronecker-factored curvature, as an optax transformation whose state holds it all."""

import optax

from thermolinalg.optim.books import Scalar, Scheduled
from thermolinalg.optim.fisher import Columns, monte_carlo
from thermolinalg.optim.kfac_step import Step
from thermolinalg.optim.kronecker import BlockSolver, Factored
from thermolinalg.optim.task import Task
from thermolinalg.optim.trust import LevenbergMarquardt, Limit, QuadraticModel


def kfac(
    task: Task,
    learning_rate: Scheduled | QuadraticModel,
    *,
    damping: Scheduled | LevenbergMarquardt,
    blocks: BlockSolver | None = None,
    fisher: Columns = monte_carlo,
    momentum: Scheduled = 0.9,
    decay: Scheduled = 0.95,
    factor_period: int = 1,
    inverse_period: int = 5,
    burn_in: int = 0,
    l2: Scalar = 0.0,
    weight_decay: Scheduled = 0.0,
    limit: Limit | None = None,
    grafting: optax.GradientTransformation | None = None,
    rest: optax.GradientTransformation | None = None,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    r"""Precondition gradients with a Kronecker-factored curvature.

    .. math:: \theta \leftarrow \theta - \alpha v, \qquad v \leftarrow \mu v + P, \qquad
        P_l = (A_l \otimes G_l + \lambda I)^{-1} g_l

    with running means of :math:`A_l`, the second moment of a layer's inputs, and :math:`G_l`, that of the derivatives
    of the loss by its outputs.

    Parameters
    ----------
    task : Task
        Model, loss, and which parameter belongs to which layer: :func:`~thermolinalg.optim.task`.
    learning_rate : float, > 0, schedule, or QuadraticModel
        The last chooses learning rate and momentum itself.
    damping : float, > 0, schedule, or LevenbergMarquardt
    blocks : BlockSolver
        How blocks are inverted: :class:`~thermolinalg.optim.Factored` of any solver (default: Cholesky inverses),
        :class:`~thermolinalg.optim.RowSolves`, :class:`~thermolinalg.optim.Eigenbases`,
        :class:`~thermolinalg.optim.CorrectedEigenbases`.
    fisher : callable
        Which curvature: ``exact``, ``monte_carlo``, ``propagation``, ``empirical`` of :mod:`thermolinalg.optim`.
    momentum : float, >= 0, or schedule
    decay : float in [0, 1), or schedule
        Of the running means; the first steps are plain averages.
    factor_period, inverse_period : int, >= 1
        Steps between two measurements of the factors, and between two refreshes of the inverses.
    burn_in : int, >= 0
        First steps that measure factors only; parameters stay.
    l2 : float, >= 0
        Coefficient of a penalty :math:`\tfrac w2 \lVert\theta\rVert^2` that is not in the loss: added to gradient and
        curvature.
    weight_decay : float, >= 0, or schedule
        Decoupled: shrinks parameters by :math:`\alpha w \theta` and enters neither.
    limit : KLClip, NormConstraint or callable
        Shortens steps.
    grafting : optax transformation
        Every block keeps its direction and takes the length of this optimizer's step.
    rest : optax transformation
        For parameters that belong to no tagged layer. Without it such parameters are an error. It receives their
        gradients, and brings its own learning rate.
    seed : int
        Of all random numbers.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, batch=(inputs, targets))``, optionally with ``value``, the loss, and ``factors``,
        measured elsewhere (say, averaged over micro-batches). ``state.stats`` tells what a step did.

    Raises
    ------
    ValueError
        If the task has no tagged layer, if parameters are left and `rest` is not given, if a number is out of range;
        and, from ``update``, if ``batch`` or ``params`` is missing or trees do not match.

    Notes
    -----
    A step whose gradient or loss is not finite is refused and counted: parameters, factors and momentum stay, and what
    was due in it, a measurement or a refresh, is due in the next. Factors that are not finite are left out of the
    running means; while there are no others, steps are refused. A block whose solver fails or points uphill goes along
    the plain gradient, with the length of its last good direction, and is counted as well. With ``factor_period=1`` the
    compiler shares the forward pass with the gradient's.

    ``optax.MultiSteps`` hands on the batch of the last micro-step only: average factors over micro-batches and pass
    them as ``factors``.

    References
    ----------
    Martens and Grosse, *Optimizing neural networks with Kronecker-factored approximate curvature*, arXiv:1503.05671.

    Examples
    --------
    Linear regression is solved in one step.

    >>> import jax, jax.numpy as jnp, optax
    >>> from thermolinalg import optim
    >>> model = lambda params, x: optim.dense(x, params["w"], params["b"])
    >>> params = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}
    >>> x = jax.random.normal(jax.random.key(0), (32, 3))
    >>> batch = (x, x @ jnp.ones((3, 2)) + 1)
    >>> task = optim.task(model, optim.SquaredError(), params, x)
    >>> opt = optim.kfac(task, 1.0, damping=1e-8, fisher=optim.exact)
    >>> updates, state = opt.update(jax.grad(task.value)(params, batch), opt.init(params), params, batch=batch)
    >>> bool(task.value(optax.apply_updates(params, updates), batch) < 1e-6)
    True
    """
    rule = Step(
        *(task, learning_rate, damping, blocks or Factored(), fisher, momentum, decay, factor_period, inverse_period),
        *(burn_in, l2, weight_decay, limit, grafting, rest, seed),
    )
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)
