"""Trees of parameters as the matrices of their layers, and back."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path

from thermolinalg.optim.sites import Site

Tree = Any


def to_blocks(sites: Sequence[Site], tree: Tree, dtype: Any) -> dict[str, jax.Array]:
    """Every block as a matrix, by path."""
    leaves = {keystr(path): leaf.astype(dtype) for path, leaf in tree_flatten_with_path(tree)[0]}
    return {site.path: site.matrix(leaves) for site in sites}


def from_blocks(sites: Sequence[Site], matrices: dict[str, jax.Array], rest: Tree) -> Tree:
    """The tree of these matrices, in the dtypes of another tree, which provides what belongs to no block."""
    found: dict[str, jax.Array] = {}
    for site in sites:
        found.update(site.leaves(matrices[site.path]))
    return tree_map_with_path(
        lambda path, leaf: found[keystr(path)].astype(leaf.dtype) if keystr(path) in found else leaf, rest
    )
