"""Products of embeddings with a fixed sparse graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding, embedding_bag


def sparse_matmul(matrix: Tensor, x: Tensor) -> Tensor:
    """[N, M] CSR times [M, D], outside autograd, by the fastest kernel of the device.

    On a CPU that is a sum of embeddings: it fetches rows ahead of their use, and takes a third to a
    half of the time of `torch.sparse.mm(matrix, x, "sum")`.
    """
    if x.device.type != "cpu":
        return matrix @ x
    return embedding_bag(
        matrix.col_indices(),
        x,
        matrix.crow_indices(),
        mode="sum",
        per_sample_weights=matrix.values(),
        include_last_offset=True,
    )


class TakenRows(NamedTuple):
    """Some rows of a sparse matrix, each once.

    Attributes:
        part: [R, M] sparse CSR.
        place: where in it each row that was asked for stands, in the shape of the asking.
    """

    part: Tensor
    place: Tensor


def take_rows(matrix: Tensor, index: Tensor) -> TakenRows:
    """The rows of a sparse matrix that an index names, in any shape and order, with repetitions."""
    start, column, value = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    wanted = torch.zeros(len(matrix), dtype=torch.bool, device=index.device)
    wanted[index] = True
    rows = wanted.nonzero().squeeze(1)
    lengths = start[rows + 1] - start[rows]
    ends = lengths.cumsum(0, dtype=start.dtype)
    moved = torch.repeat_interleave(start[rows] - (ends - lengths), lengths)
    edge = moved + torch.arange(len(moved), dtype=start.dtype, device=index.device)
    part = torch.sparse_csr_tensor(
        torch.cat([ends.new_zeros(1), ends]),
        column[edge],
        value[edge],
        (len(rows), matrix.shape[1]),
        check_invariants=False,
    )
    return TakenRows(part, (wanted.cumsum(0) - 1)[index])


def _sum_of_powers(adjacency: Tensor, x: Tensor, layers: int) -> Tensor:
    total = x
    for _ in range(layers):  # Horner: x + A (x + A (x + ...)) needs no running sum
        total = sparse_matmul(adjacency, total).add_(x)
    return total


def _mean_of_powers(adjacency: Tensor, x: Tensor, layers: int) -> Tensor:
    assert layers > 0  # else the result would be the signal itself, divided in place
    return _sum_of_powers(adjacency, x, layers).div_(layers + 1)


class _MeanOfPowers(torch.autograd.Function):
    """A polynomial in a symmetric matrix is its own transpose, so it is also its own gradient."""

    @staticmethod
    def forward(ctx: Any, adjacency: Tensor, x: Tensor, layers: int) -> Tensor:
        ctx.adjacency, ctx.layers = adjacency, layers
        return _mean_of_powers(adjacency, x, layers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        return None, _mean_of_powers(ctx.adjacency, grad.contiguous(), ctx.layers), None


class _RowsOfMeans(torch.autograd.Function):
    """The same over several graphs, blended, at some rows only.

    The last products and the gradients of the result are then a few rows long, and the signal
    itself is looked up once, not once a graph.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        layers: int,
        index: Tensor,
        weights: Tensor | None,
        *graphs: tuple[Tensor, TakenRows],
    ) -> Tensor:
        ctx.graphs, ctx.layers, ctx.length = [graph for graph, _ in graphs], layers, len(x)
        layer0 = embedding(index, x)
        found = []
        for graph, (part, place) in graphs:
            last = sparse_matmul(part, _sum_of_powers(graph, x, layers - 1))
            found.append(embedding(place, last).add_(layer0).div_(layers + 1))
        if weights is None:
            ctx.save_for_backward(index, weights)
            return found[0]
        ctx.save_for_backward(index, weights, *found)
        return torch.einsum("k,k...d->...d", weights, torch.stack(found))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, weights, *found = ctx.saved_tensors
        of_weights = torch.stack([(grad * rows).sum() for rows in found]) if found else None
        index, rows = index.flatten(), grad.flatten(0, -2) / (ctx.layers + 1)
        layer0 = rows.new_zeros(ctx.length, rows.shape[1]).index_add_(0, index, rows)
        result = None
        for k, graph in enumerate(ctx.graphs):
            total = layer0
            for step in range(ctx.layers):
                if step > 0:
                    total.index_add_(0, index, rows)
                total = sparse_matmul(graph, total)
            if weights is not None:
                total *= weights[k]
            result = total if result is None else result.add_(total)
        assert result is not None
        result.index_add_(0, index, rows)
        return result, None, None, of_weights, *(None for _ in ctx.graphs)


class _SymmetricProduct(torch.autograd.Function):
    """The gradient of a product with a symmetric matrix is one more product with it."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor) -> Tensor:
        ctx.matrix = matrix
        return sparse_matmul(matrix, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, sparse_matmul(ctx.matrix, grad.contiguous())


class Graph(nn.Module):
    """A fixed sparse matrix as a part of what uses it: shared by several, a device holds it once.

    Args:
        adjacency: [N, N] sparse CSR, symmetric.
    """

    adjacency: Tensor

    def __init__(self, adjacency: Tensor) -> None:
        super().__init__()
        self.register_buffer("adjacency", adjacency, persistent=False)


class Smoothing(Graph):
    """A signal's product with one symmetric matrix: `A x`."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] -> [N, D]; single precision under autocast."""
        with torch.autocast(x.device.type, enabled=False):
            product: Callable[..., Tensor] = _SymmetricProduct.apply
            return product(self.adjacency, x.to(self.adjacency.dtype))


class Propagation(nn.Module):
    """Mean of a signal and its repeated products with one symmetric matrix: `1/(L+1) sum A^l x`.

    Args:
        graph: [N, N] sparse CSR, symmetric; a `Graph` where others use it too.
        layers: number of products L; 0 returns the signal.
    """

    def __init__(self, graph: Tensor | Graph, layers: int) -> None:
        super().__init__()
        if layers < 0:
            raise ValueError(f"layers is {layers}; give 0 or more propagation steps")
        self.graph = graph if isinstance(graph, Graph) else Graph(graph)
        self.layers = layers

    @property
    def adjacency(self) -> Tensor:
        """[N, N] sparse CSR."""
        return self.graph.adjacency

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] -> [N, D]; single precision under autocast, where sparse products have no half."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.adjacency.dtype)
            if self.layers == 0:
                return x
            smooth: Callable[..., Tensor] = _MeanOfPowers.apply
            return smooth(self.adjacency, x, self.layers)

    def rows(self, x: Tensor, index: Tensor) -> Tensor:
        """Some rows of the result, at less cost than all: [N, D], [...] -> [..., D]."""
        return blended_rows([self], None, x, index, [take_rows(self.adjacency, index)])


def blended_rows(
    propagations: Sequence[Propagation],
    weights: Tensor | None,
    x: Tensor,
    index: Tensor,
    taken: Sequence[TakenRows],
) -> Tensor:
    """Some rows of `sum_k w_k P_k(x)`, at less cost than of each alone.

    Args:
        propagations: K, each with the same number of layers.
        weights: [K], which sum to one; None for a single propagation.
        x: [N, D].
        index: [...].
        taken: what `take_rows` finds for that index in the graph of each.

    Returns:
        [..., D]
    """
    layers = propagations[0].layers
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(propagations[0].adjacency.dtype)
        if layers == 0:
            return embedding(index, x)
        rows: Callable[..., Tensor] = _RowsOfMeans.apply
        graphs = zip((p.adjacency for p in propagations), taken, strict=True)
        return rows(x, layers, index, weights, *graphs)
