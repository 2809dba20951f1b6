"""Counting rules of functions that act entry by entry, and of primitives that only move entries."""

from thermolinalg.complexity.rules_base import Count, Equation, Rule, arithmetic

_ARITHMETIC = {
    # name: operations on real entries, operations on complex entries
    **dict.fromkeys(["add", "sub", "add_any", "neg"], (1, 2)),
    **dict.fromkeys(["mul", "square"], (1, 6)),
    **dict.fromkeys(["rem", "floor", "ceil", "round", "nextafter", "mulhi"], (1, 2)),
    "div": (1, 11),  # six and two for the numerators, three for |.|^2 without a root
    "abs": (1, 4),
    "sign": (1, 6),
    "sqrt": (1, 8),
    "rsqrt": (2, 19),  # a root and a division
}

_TRANSCENDENTAL = (
    "exp exp2 expm1 log log1p tanh sin cos tan asin acos atan sinh cosh asinh acosh atanh logistic erf erfc erf_inv"
    " lgamma digamma polygamma igamma igammac igamma_grad_a random_gamma_grad zeta regularized_incomplete_beta"
    " bessel_i0e bessel_i1e pow cbrt atan2"
)

_COMPARISONS = {
    **dict.fromkeys(["max", "min", "eq", "ne", "lt", "le", "gt", "ge", "eq_to", "le_to", "lt_to", "is_finite"], 1),
    "clamp": 2,
}

_LOGIC = "and or not xor shift_left shift_right_logical shift_right_arithmetic population_count clz"

_MOVES = (
    "broadcast_in_dim reshape transpose squeeze slice dynamic_slice dynamic_update_slice concatenate split stack"
    " unstack tile pad gather rev iota select_n convert_element_type bitcast_convert_type copy copy_p stop_gradient"
    " real imag complex conj reduce_precision dim_as_value device_put sharding_constraint optimization_barrier empty"
    " empty2 create_token after_all random_wrap random_unwrap random_clone platform_index name"
)


def _arithmetic(equation: Equation) -> Count:
    real, imaginary = _ARITHMETIC[equation.name]
    entries = equation.inputs[0]
    return arithmetic(
        entries.dtype, entries.size if equation.name == "abs" else equation.outputs[0].size, real, imaginary
    )


def _transcendental(equation: Equation) -> Count:
    return Count(transcendentals=equation.outputs[0].size)


def _comparison(equation: Equation) -> Count:
    return Count(comparisons=_COMPARISONS[equation.name] * equation.outputs[0].size)


def _logic(equation: Equation) -> Count:
    return Count(integers=equation.outputs[0].size)


def _nothing(equation: Equation) -> Count:
    return Count()


def _power(equation: Equation) -> Count:
    """Repeated squaring, and a reciprocal if the exponent is negative."""
    exponent = int(equation.params["y"])
    bits = abs(exponent)
    squarings = max(bits.bit_length() - 1, 0)
    others = max(bits.bit_count() - 1, 0)
    out = equation.outputs[0]
    reciprocal = arithmetic(out.dtype, out.size, 1, 11) if exponent < 0 else Count()
    return arithmetic(out.dtype, out.size, squarings + others, 6 * (squarings + others)) + reciprocal


ELEMENTWISE: dict[str, Rule] = {
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    **dict.fromkeys(_TRANSCENDENTAL.split(), _transcendental),
    **dict.fromkeys(_COMPARISONS, _comparison),
    **dict.fromkeys(_LOGIC.split(), _logic),
    **dict.fromkeys(_MOVES.split(), _nothing),
    "integer_pow": _power,
}
"""Rules of functions entry by entry."""

_RENAMED = "reshape squeeze expand_dims stop_gradient copy_p optimization_barrier random_wrap random_unwrap"

ALIASES = frozenset(_RENAMED.split())
"""Primitives whose result is their operand under another shape: no byte need move."""

SLICES = frozenset(["slice", "dynamic_slice", "gather"])
"""Primitives that read no more of their operand than they return."""
