from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn.conv.message_passing import MessagePassing
from torch_geometric.utils import spmm

from mmrec.graphs import csr_matrix
from mmrec.nn import Propagation, SparseMatrix, sparse_matmul, take_rows
from mmrec.nn.sparse import row_of_entries, transpose

shapes = st.tuples(st.integers(1, 7), st.integers(1, 7))


def random(seed, shape):
    """A random sparse matrix, as a dense and as a CSR tensor; some rows and columns are empty."""
    rng = torch.Generator().manual_seed(seed)
    dense = torch.rand(shape, generator=rng) * (torch.rand(shape, generator=rng) < 0.4)
    row, column = dense.nonzero().unbind(1)
    return dense, csr_matrix(row, column, dense[row, column], shape)


def operands(seed, shape, dim=3):
    rng = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(shape[1], dim, generator=rng)
    return x.clone().requires_grad_(), x.requires_grad_(), torch.randn(shape[0], dim, generator=rng)


@settings(max_examples=50)
@given(st.integers(0, 999), shapes)
def test_product_and_gradient_equal_autograd_on_the_dense_matrix(seed, shape):
    dense, sparse = random(seed, shape)
    ours, theirs, towards = operands(seed, shape)
    found, expected = SparseMatrix(sparse)(ours), dense @ theirs
    torch.testing.assert_close(found, expected)
    (found * towards).sum().backward()
    (expected * towards).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@settings(max_examples=50)
@given(st.integers(0, 999), shapes)
def test_gradient_to_the_values_equals_autograd_on_the_dense_matrix(seed, shape):
    dense, sparse = random(seed, shape)
    ours, theirs, towards = operands(seed, shape)
    row, column = dense.nonzero().unbind(1)
    values = torch.rand(len(row), generator=torch.Generator().manual_seed(seed))
    one, other = values.clone().requires_grad_(), values.requires_grad_()
    found = SparseMatrix(sparse, weighted=True)(ours, one)
    expected = torch.zeros(shape).index_put((row, column), other) @ theirs
    torch.testing.assert_close(found, expected)
    (found * towards).sum().backward()
    (expected * towards).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(one.grad, other.grad)


class WeightedSum(MessagePassing):
    """Sum of neighbours times edge weights, from M sources to N targets."""

    def __init__(self):
        super().__init__(aggr="sum")

    def forward(self, x, edge_index, weight, size):
        return self.propagate(edge_index, x=(x, None), weight=weight, size=size)

    def message(self, x_j, weight):
        return weight[:, None] * x_j


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), shapes)
def test_product_and_gradients_equal_message_passing(seed, shape):
    dense, sparse = random(seed, shape)
    ours, theirs, towards = operands(seed, shape)
    row, column = dense.nonzero().unbind(1)
    one, other = (dense[row, column].clone().requires_grad_() for _ in range(2))
    found = SparseMatrix(sparse, weighted=True)(ours, one)
    expected = WeightedSum()(theirs, torch.stack([column, row]), other, shape[::-1])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(SparseMatrix(sparse)(ours), expected)
    torch.testing.assert_close(sparse_matmul(sparse, ours.detach()), spmm(sparse, theirs.detach()))
    (found * towards).sum().backward()
    (expected * towards).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(one.grad, other.grad)


def test_gradient_to_the_values_is_computed_block_by_block(monkeypatch):
    monkeypatch.setattr("mmrec.nn.sparse.BLOCK", {"cpu": 4})
    dense, sparse = random(3, (6, 5))
    values = sparse.values().clone().requires_grad_()
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    SparseMatrix(sparse, weighted=True)(x, values).sum().backward()
    row, column = dense.nonzero().unbind(1)
    assert len(row) > 4
    torch.testing.assert_close(values.grad, x[column].sum(1))


@settings(max_examples=50)
@given(st.integers(0, 999), shapes)
def test_dots_at_the_entries_equal_a_dense_product(seed, shape):
    dense, sparse = random(seed, shape)
    row, column = dense.nonzero().unbind(1)
    rng = torch.Generator().manual_seed(seed + 1)
    pairs = [[torch.randn(n, 3, generator=rng).requires_grad_() for n in shape]]
    pairs.append([x.detach().clone().requires_grad_() for x in pairs[0]])
    towards = torch.randn(len(row), generator=rng)
    found = SparseMatrix(sparse, weighted=True).dots(*pairs[0])
    expected = (pairs[1][0] @ pairs[1][1].T)[row, column]
    torch.testing.assert_close(found, expected)
    (found * towards).sum().backward()
    (expected * towards).sum().backward()
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(1, 7), st.integers(0, 3))
def test_a_directed_graph_propagates_with_the_gradient_of_its_transpose(seed, n, layers):
    dense, sparse = random(seed, (n, n))
    ours, theirs, towards = operands(seed, (n, n))
    propagate = Propagation(SparseMatrix(sparse), layers)
    powers = [torch.linalg.matrix_power(dense, k) @ theirs for k in range(layers + 1)]
    expected = torch.stack(powers).mean(0)
    index = torch.tensor([n - 1, 0, 0])
    for found, wanted, weight in (
        (propagate(ours), expected, towards),
        (propagate.rows(ours, index), expected[index], towards[index]),
    ):
        torch.testing.assert_close(found, wanted)
        for x in (ours, theirs):
            x.grad = None
        (found * weight).sum().backward()
        (wanted * weight).sum().backward(retain_graph=True)
        torch.testing.assert_close(ours.grad, theirs.grad)


@settings(max_examples=30)
@given(st.integers(0, 999), shapes)
def test_transpose(seed, shape):
    dense, sparse = random(seed, shape)
    transposed, order = transpose(sparse)
    assert torch.equal(transposed.to_dense(), dense.T)
    assert torch.equal(transposed.values(), sparse.values()[order])
    assert torch.equal(row_of_entries(sparse), dense.nonzero()[:, 0])


@pytest.mark.parametrize(
    "dense",
    [
        torch.tensor([[0.0, 1.0], [0.0, 0.0]]),  # one direction only
        torch.tensor([[0.0, 1.0], [2.0, 0.0]]),  # other values
        torch.tensor([[0.0, 1.0]]),  # not square
    ],
)
def test_a_wrong_declaration_of_symmetry_is_refused(dense):
    with pytest.raises(ValueError, match="symmetric"):
        SparseMatrix(dense.to_sparse_csr(), symmetric=True)


def test_a_symmetric_matrix_is_stored_once():
    dense = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    layer = SparseMatrix(dense.to_sparse_csr(), symmetric=True)
    assert len([*layer.buffers()]) == 1
    assert layer.transposed is layer.matrix
    assert layer.state_dict() == {}


def test_values_need_a_weighted_matrix():
    layer = SparseMatrix(random(0, (3, 4))[1])
    with pytest.raises(ValueError, match="weighted=True"):
        layer(torch.ones(4, 1), layer.matrix.values())
    with pytest.raises(ValueError, match="weighted=True"):
        layer.dots(torch.ones(3, 1), torch.ones(4, 1))


def test_autocast_does_not_reach_the_product():
    dense, sparse = random(1, (4, 5))
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = SparseMatrix(sparse)(x.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, dense @ x.bfloat16().float())


def as_csr(dense, index):
    row, column = dense.nonzero().unbind(1)
    sparse = csr_matrix(row, column, dense[row, column], dense.shape)
    parts = sparse.crow_indices().to(index), sparse.col_indices().to(index), sparse.values()
    return torch.sparse_csr_tensor(*parts, dense.shape, check_invariants=True)


@settings(max_examples=30)
@given(st.integers(0, 99), st.lists(st.integers(0, 5), max_size=9))
def test_taken_rows_are_each_there_once(seed, index):
    dense, wanted = random(seed, (6, 6))[0], torch.tensor(index, dtype=torch.long)
    dense[2] = 0
    part, place = take_rows(dense.to_sparse_csr(), wanted)
    assert len(part) == len(set(index))
    assert torch.equal(part.to_dense()[place], dense[wanted])


def test_the_product_is_the_dense_one():
    dense, sparse = random(2, (6, 6))
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(sparse_matmul(sparse, x), dense @ x)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_product_is_torchs_own(dtype, index):
    generator = torch.Generator().manual_seed(3)
    dense = torch.rand(50, 70, generator=generator, dtype=dtype)
    dense[dense < 0.8] = 0
    dense[7] = 0  # a row without anything
    x = torch.randn(70, 33, generator=generator, dtype=dtype)
    matrix = as_csr(dense, index)
    found = sparse_matmul(matrix, x)
    torch.testing.assert_close(found, torch.sparse.mm(matrix, x, "sum"))
    torch.testing.assert_close(found, dense @ x)
    assert not found[7].any()


def test_a_product_with_nothing_is_zero():
    empty = as_csr(torch.zeros(4, 5), torch.int32)
    torch.testing.assert_close(sparse_matmul(empty, torch.ones(5, 3)), torch.zeros(4, 3))
