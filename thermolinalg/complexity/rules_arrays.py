"""Counting rules of products, convolutions, sums, sorts, transforms, updates and random bits."""

import numpy as np
import sympy as sp

from thermolinalg.complexity.rules_base import Count, Equation, Rule, arithmetic, product, weighted

BLOCK = 119
"""Integer operations of one threefry-2x32 block: two for the last word of the key, 2 + 5 x 3 additions, 20 rounds of
an addition, a rotation (3) and an exclusive or."""


def _dot(equation: Equation) -> Count:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.inputs[0], equation.outputs[0]
    terms = product(left.shape[axis] for axis in contracted) * out.size
    return weighted(out.dtype, terms, terms)


def _convolution(equation: Equation) -> Count:
    """Products of a kernel with entries, padding left out where its place is known."""
    kernel, out, params = equation.inputs[1], equation.outputs[0], equation.params
    numbers = params["dimension_numbers"]
    terms = out.shape[numbers.out_spec[0]] * out.shape[numbers.out_spec[1]] * kernel.shape[numbers.rhs_spec[1]]
    for place, (axis_in, axis_kernel, axis_out) in enumerate(
        zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True)
    ):
        terms *= positions(
            equation.inputs[0].shape[axis_in],
            kernel.shape[axis_kernel],
            out.shape[axis_out],
            params["window_strides"][place],
            equation.dim(params["padding"][place][0]),
            params["lhs_dilation"][place],
            params["rhs_dilation"][place],
        )
    return weighted(out.dtype, sp.expand(terms), sp.expand(terms))


def positions(
    entries: sp.Expr, taps: sp.Expr, outputs: sp.Expr, stride: int, low: sp.Expr, spread: int, dilation: int
) -> sp.Expr:
    """Pairs of an output and a tap of the kernel that meet an entry, not padding, along one axis."""
    numeric = all(size.is_Integer for size in (entries, taps, outputs, low))
    if numeric:
        place = np.arange(int(outputs))[:, None] * stride + np.arange(int(taps)) * dilation - int(low)
        met = (place >= 0) & (place <= (int(entries) - 1) * spread) & (place % spread == 0)
        return sp.Integer(int(met.sum()))
    if outputs.is_Integer and stride == dilation == 1:
        taps, outputs = outputs, taps  # both step by one entry
    if taps.is_Integer and low.is_Integer and stride == spread == 1:
        total = sp.S.Zero
        for tap in range(int(taps)):
            shift = tap * dilation - low
            excess = sp.expand(entries - shift - outputs)  # outputs past the last entry, if negative
            if not excess.is_Integer:
                break
            total += outputs + sp.Min(excess, 0) - sp.Max(-shift, 0)
        else:
            return sp.expand(total)
    return taps * outputs  # an upper bound: products with padding counted


def _sum(equation: Equation) -> Count:
    operand, outs = equation.inputs[0], equation.outputs[0].size
    return arithmetic(operand.dtype, sp.expand(operand.size - outs), 1, 6 if equation.name == "reduce_prod" else 2)


def _extremum(equation: Equation) -> Count:
    return Count(comparisons=sp.expand(equation.inputs[0].size - equation.outputs[0].size))


def _logic(equation: Equation) -> Count:
    return Count(integers=sp.expand(equation.inputs[0].size - equation.outputs[0].size))


def _running(equation: Equation) -> Count:
    """One operation per entry after the first, in sequence."""
    operand = equation.inputs[0]
    steps = sp.expand(operand.size - sp.cancel(operand.size / operand.shape[equation.params["axis"]]))
    if equation.name in ("cummax", "cummin"):
        return Count(comparisons=steps)
    if equation.name == "cumlogsumexp":
        return Count(flops=2 * steps, transcendentals=2 * steps, comparisons=steps)
    return arithmetic(operand.dtype, steps, 1, 6 if equation.name == "cumprod" else 2)


def _window(equation: Equation) -> Count:
    steps = equation.outputs[0].size * (product(map(equation.dim, equation.params["window_dimensions"])) - 1)
    if equation.name in ("reduce_window_sum",):
        return arithmetic(equation.outputs[0].dtype, sp.expand(steps))
    return Count(comparisons=sp.expand(steps))


def _spread_back(equation: Equation) -> Count:
    source = equation.inputs[0]
    steps = source.size * (product(map(equation.dim, equation.params["window_dimensions"])) - 1)
    return Count(comparisons=sp.expand(steps)) + arithmetic(source.dtype, source.size)


def _sort(equation: Equation) -> Count:
    operand = equation.inputs[0]
    length = operand.shape[equation.params.get("dimension", -1)]
    return Count(comparisons=operand.size * sp.ceiling(sp.log(length, 2)))


def _update(equation: Equation) -> Count:
    updates = equation.inputs[2]
    if equation.name in ("scatter", "scatter_apply"):
        return Count()
    if equation.name.endswith(("min", "max")):
        return Count(comparisons=updates.size)
    return arithmetic(updates.dtype, updates.size, 1, 6 if equation.name.endswith("mul") else 2)


def _fft(equation: Equation) -> Count:
    """The operations of the split into halves: 5 N log2 N for complex entries, half of that if one side is real."""
    lengths = [equation.dim(length) for length in equation.params["fft_lengths"]]
    points = product(lengths)
    complex_sides = equation.inputs[0].complex and equation.outputs[0].complex
    full = equation.outputs[0] if equation.inputs[0].complex else equation.inputs[0]
    batch = product(full.shape[: len(full.shape) - len(lengths)])
    return Count(flops=sp.Rational(5, 1 if complex_sides else 2) * batch * points * sp.log(points, 2))


def _random_bits(equation: Equation) -> Count:
    """A block for each number of up to 64 bits, and an exclusive or where one word of two is kept."""
    width = int(equation.params["bit_width"])
    blocks = equation.outputs[0].size
    return Count(integers=blocks * (BLOCK + (width < 64)))


def _keys(equation: Equation) -> Count:
    out = equation.outputs[0]
    return Count(integers=BLOCK * out.size)


c_gamma = sp.Symbol("c_gamma", positive=True)
"""Operations of one draw from a gamma distribution, by rejection: on average, since values decide."""


def _gamma(equation: Equation) -> Count:
    return Count(flops=c_gamma * equation.outputs[0].size)


def _threefry(equation: Equation) -> Count:
    return Count(integers=BLOCK * equation.outputs[0].size)


def _seed(equation: Equation) -> Count:
    return Count(integers=2 * equation.outputs[0].size)


ARRAYS: dict[str, Rule] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(["reduce_sum", "reduce_prod"], _sum),
    **dict.fromkeys(["reduce_max", "reduce_min", "argmax", "argmin"], _extremum),
    **dict.fromkeys(["reduce_and", "reduce_or", "reduce_xor"], _logic),
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"], _running),
    **dict.fromkeys(["reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_gather_add"], _window),
    "select_and_scatter_add": _spread_back,
    **dict.fromkeys(["sort", "top_k", "approx_top_k"], _sort),
    **dict.fromkeys(["scatter", "scatter-add", "scatter_add", "scatter-mul", "scatter_mul"], _update),
    **dict.fromkeys(
        ["scatter-min", "scatter_min", "scatter-max", "scatter_max", "scatter-sub", "scatter_sub"], _update
    ),
    "fft": _fft,
    "random_bits": _random_bits,
    "random_split": _keys,
    "random_fold_in": _keys,
    "random_seed": _seed,
    "random_gamma": _gamma,
    "threefry2x32": _threefry,
}
"""Rules of operations between entries."""

ARRAY_NOTES = {
    "conv_general_dilated": "exact for numbers and unit strides; else products with padding are counted too",
    "sort": "an upper bound, N ceil(log2 N) comparisons by one key",
    "top_k": "an upper bound, that of a full sort",
    "approx_top_k": "an upper bound, that of a full sort",
    "fft": "a model, 5 N log2 N flops, half for real entries",
    "random_bits": "a model, one threefry-2x32 block for each number",
    "random_gamma": "a model, c_gamma for each draw by rejection, all operations: no figure adopted",
    "cumsum": "in sequence; a parallel scan spends more",
    "cumprod": "in sequence; a parallel scan spends more",
    "cumlogsumexp": "in sequence; a parallel scan spends more",
}
"""Where a count is a model or a bound."""
