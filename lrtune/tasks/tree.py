"""Trees: a tensor, or tensors in tuples, lists and dictionaries, as data sets and models give."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

# A recursive alias would say more, but every function of a user's would then have to narrow it.
Tree: TypeAlias = Any


def leaves(tree: Tree) -> Iterator[Tensor]:
    """The tensors, in order."""
    if isinstance(tree, Mapping):
        tree = tuple(tree.values())
    if isinstance(tree, tuple | list):
        for branch in tree:
            yield from leaves(branch)
    else:
        yield tree


def tree_map(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """The same tree, each tensor replaced."""
    return _zip(lambda tensors: function(tensors[0]), [tree])


def keys(tree: Tree) -> Any:
    """The tree's form: the same where the same names and places hold tensors."""
    if isinstance(tree, Mapping):
        return {str(name): keys(branch) for name, branch in tree.items()}
    return [keys(branch) for branch in tree] if isinstance(tree, tuple | list) else "tensor"


def laid_out(tree: Tree, layout: torch.memory_format) -> Tree:
    """The same tree, its batches of images in this layout."""
    if layout == torch.contiguous_format:
        return tree
    return tree_map(lambda t: t.to(memory_format=layout) if t.dim() == 4 else t, tree)


def concat(trees: Sequence[Tree]) -> Tree:
    """Trees of batches as the tree of one batch, joined along the first dimension."""
    return trees[0] if len(trees) == 1 else _zip(torch.cat, trees)


def stack(trees: Sequence[Tree]) -> Tree:
    """Trees of one form as one, stacked along a new first dimension."""
    return _zip(torch.stack, trees)


def _zip(function: Callable[[list[Tensor]], Tensor], trees: Sequence[Tree]) -> Tree:
    first = trees[0]
    if isinstance(first, Mapping):
        return {name: _zip(function, [tree[name] for tree in trees]) for name in first}
    if isinstance(first, tuple | list):
        branches = [_zip(function, branch) for branch in zip(*trees, strict=True)]
        named = isinstance(first, tuple) and hasattr(first, "_fields")
        return type(first)(*branches) if named else type(first)(branches)
    return function(list(trees))
