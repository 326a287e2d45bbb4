from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity

from mmrec.config.errors import DataError
from mmrec.data.corpus import Modality
from mmrec.graphs import Neighbours, content_knn, knn_adjacency, knn_graph


@st.composite
def exact_features(draw):
    """Rows of four entries of +-1: every cosine is a multiple of 1/4, exact, and ties abound."""
    n_items = draw(st.integers(2, 12))
    row = st.tuples(st.permutations(range(6)), st.lists(st.sampled_from([-1, 1]), min_size=4))
    features = torch.zeros(n_items, 6)
    for item in range(n_items):
        places, signs = draw(row)
        features[item, list(places[:4])] = torch.tensor(signs[:4], dtype=torch.float32)
    present = torch.tensor(draw(st.lists(st.booleans(), min_size=n_items, max_size=n_items)))
    present[:2] = True
    features[draw(st.integers(0, n_items - 1))] *= draw(st.sampled_from([0.25, 1, 8]))
    return features, present


def naive(features, k, present, self_loops):
    """Sort all pairs in Python by (cosine, lower index)."""
    index, similarity = [], []
    for a in range(len(features)):
        if not present[a]:
            index.append([-1] * k)
            similarity.append([0.0] * k)
            continue
        others = [
            (-float(cosine_similarity(features[a], features[b], dim=0)), b)
            for b in range(len(features))
            if present[b] and (self_loops or a != b)
        ]
        chosen = sorted(others)[:k]
        index.append([b for _, b in chosen])
        similarity.append([-s for s, _ in chosen])
    return Neighbours(torch.tensor(index), torch.tensor(similarity))


def assert_same(found, expected):
    assert torch.equal(found.index, expected.index)
    torch.testing.assert_close(found.similarity, expected.similarity)


@settings(max_examples=60, deadline=None)
@given(exact_features(), st.integers(1, 4), st.integers(1, 13), st.booleans())
def test_neighbours_are_those_of_a_full_sort_for_any_block(content, k, block, self_loops):
    features, present = content
    k = min(k, int(present.sum()) - (not self_loops))
    found = knn_graph(features, k, present=present, block=block, self_loops=self_loops)
    assert_same(found, naive(features, k, present, self_loops))


@pytest.mark.parametrize("block", [3, 16, 59, 60])
def test_block_size_does_not_change_results(block):
    features = torch.randn(60, 33, generator=torch.Generator().manual_seed(0))
    assert_same(knn_graph(features, 5, block=block), knn_graph(features, 5))


def test_results_match_a_dense_product():
    features = torch.randn(200, 20, generator=torch.Generator().manual_seed(1)).double()
    unit = features / features.norm(dim=1, keepdim=True)
    dense = (unit @ unit.T).fill_diagonal_(-2)
    values, index = dense.topk(7)
    assert_same(knn_graph(features.float(), 7, block=32), Neighbours(index, values.float()))


def test_renaming_items_renames_their_neighbours():
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(60, 16, generator=generator)
    order = torch.randperm(60, generator=generator)
    plain, moved = knn_graph(features, 4, block=16), knn_graph(features[order], 4, block=16)
    assert torch.equal(order[moved.index], plain.index[order])
    torch.testing.assert_close(moved.similarity, plain.similarity[order])


def test_identical_items_are_ordered_by_index():
    features = torch.ones(9, 5)
    found = knn_graph(features, 3, block=2)
    assert found.index.tolist() == [
        [1, 2, 3],
        [0, 2, 3],
        [0, 1, 3],
        *[[0, 1, 2]] * 6,
    ]


def test_zero_rows_and_absent_items_are_nobodys_neighbours():
    features = torch.eye(5).roll(1, 0) + 1
    features[1] = 0
    found = knn_graph(features, 2, present=torch.tensor([True, True, True, False, True]))
    assert found.index[[1, 3]].tolist() == [[-1, -1]] * 2
    assert found.similarity[[1, 3]].tolist() == [[0, 0]] * 2
    assert set(found.index[[0, 2, 4]].flatten().tolist()) == {0, 2, 4}


@pytest.mark.parametrize("scale", [1e-38, 1e30])
def test_the_scale_of_features_does_not_matter(scale):
    features = torch.randn(30, 8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(knn_graph(features * scale, 3).index, knn_graph(features, 3).index)


def test_memory_mapped_features_are_read(tmp_path):
    features = torch.randn(50, 8, generator=torch.Generator().manual_seed(4))
    features.numpy().tofile(tmp_path / "features.bin")
    mapped = torch.from_file(str(tmp_path / "features.bin"), size=400).view(50, 8)
    assert_same(knn_graph(mapped, 3), knn_graph(features, 3))


@pytest.mark.parametrize(("k", "self_loops", "most"), [(3, False, 2), (0, False, 2), (4, True, 3)])
def test_more_neighbours_than_items_are_refused(k, self_loops, most):
    message = f"k={k} neighbours are not possible: 3 of 4 items .* k must be from 1 to {most}"
    with pytest.raises(ValueError, match=message):
        knn_graph(torch.eye(4), k, present=torch.arange(4) > 0, self_loops=self_loops)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_feature_that_is_not_finite_names_its_row(value):
    features = torch.ones(5, 3)
    features[3, 1] = value
    with pytest.raises(DataError) as error:
        knn_graph(features, 1)
    assert (error.value.file, error.value.row) == ("features", 3)


NEIGHBOURS = Neighbours(
    torch.tensor([[1, 2], [2, 3], [0, 1], [1, 0], [-1, -1]]),
    torch.tensor([[0.5, 0.25], [1.0, -0.5], [0.25, 1.0], [-0.5, -0.75], [0.0, 0.0]]),
)


def dense(**options):
    return knn_adjacency(NEIGHBOURS, **options).to_dense()


def test_a_row_holds_the_neighbours_of_its_item():
    assert dense(weights="binary", normalize="none", symmetrize=False).tolist() == [
        [0, 1, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert dense(weights="similarity", normalize="none", symmetrize=False).tolist() == [
        [0, 0.5, 0.25, 0, 0],
        [0, 0, 1, 0, 0],
        [0.25, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("weights", ["binary", "similarity"])
def test_symmetrizing_gives_an_edge_of_either_end_to_both(weights):
    one = dense(weights=weights, normalize="none", symmetrize=False)
    both = dense(weights=weights, normalize="none", symmetrize=True)
    assert torch.equal(both, one.maximum(one.T))


@pytest.mark.parametrize("symmetrize", [True, False])
@pytest.mark.parametrize("weights", ["binary", "similarity"])
def test_normalisations_divide_by_row_sums(weights, symmetrize):
    plain = dense(weights=weights, normalize="none", symmetrize=symmetrize)
    degree = plain.sum(1)
    degree[degree == 0] = torch.inf
    row = dense(weights=weights, normalize="row", symmetrize=symmetrize)
    torch.testing.assert_close(row, plain / degree[:, None])
    symmetric = dense(weights=weights, normalize="symmetric", symmetrize=symmetrize)
    sides = (degree[:, None] * degree).sqrt()
    torch.testing.assert_close(symmetric, plain / sides)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyG's import
def test_the_symmetric_normalisation_is_gcn_norm_and_symmetric():
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    features = torch.rand(40, 6, generator=torch.Generator().manual_seed(5))
    neighbours = knn_graph(features, 4)
    plain = knn_adjacency(neighbours, weights="similarity", normalize="none", symmetrize=True)
    edges, weight = plain.to_sparse_coo().indices(), plain.values()
    edges, weight = gcn_norm(edges, weight, num_nodes=40, add_self_loops=False)
    expected = torch.zeros(40, 40).index_put_((edges[0], edges[1]), weight)
    found = knn_adjacency(neighbours, weights="similarity", normalize="symmetric", symmetrize=True)
    torch.testing.assert_close(found.to_dense(), expected)
    torch.testing.assert_close(found.to_dense(), found.to_dense().T, rtol=0, atol=0)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="weights must be similarity or binary, found cosine"):
        dense(weights="cosine", normalize="none", symmetrize=False)
    with pytest.raises(ValueError, match="normalize must be symmetric, row or none, found both"):
        dense(weights="binary", normalize="both", symmetrize=False)


def test_content_neighbours_are_kept_under_their_arguments(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path))
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(6))
    modality = Modality(features, torch.ones(20, dtype=torch.bool), "digest")
    first = content_knn(modality, 3)
    assert_same(first, knn_graph(features, 3))
    stale = Modality(torch.zeros_like(features), modality.present, "digest")
    assert_same(content_knn(stale, 3), first)  # read by its digest, not built
    assert_same(content_knn(modality, 2), knn_graph(features, 2))
    assert_same(content_knn(modality, 3, self_loops=True), knn_graph(features, 3, self_loops=True))
    other = Modality(features[torch.arange(19, -1, -1)], modality.present, "other")
    assert_same(content_knn(other, 3), knn_graph(other.features, 3))
