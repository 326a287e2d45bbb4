"""Content BPR, DropoutNet and CLCRec against loops over pairs and items."""

import math
from dataclasses import replace

import pytest
import torch
from lightning import seed_everything
from torch.nn.functional import normalize

from mmrec.config.errors import SettingError
from mmrec.data import Pairs, Triplets
from mmrec.models import WMF, CLCRec, ContentBPR, DropoutNet, Embeddings, dropoutnet
from mmrec.nn import weighted_factors

BATCH = Triplets(
    torch.tensor([0, 1, 2, 3]), torch.tensor([9, 9, 10, 5]), torch.tensor([[20], [21], [22], [0]])
)


@pytest.fixture(scope="module")
def corpus(checkerboard):
    return checkerboard(missing=8)


def made(kind, corpus, **options):
    seed_everything(0, verbose=False)
    return kind(corpus, dim=6, **options)


def rows(corpus, item):
    """Content of an item, of length one, by modality; None where it is absent."""
    return [
        normalize(m.features[item], dim=0) if m.present[item] else None
        for m in corpus.modalities.values()
    ]


def flat(corpus, item):
    """The same side by side, zero where it is absent."""
    widths = [m.width for m in corpus.modalities.values()]
    found = zip(rows(corpus, item), widths, strict=True)
    return torch.cat([torch.zeros(w) if x is None else x for x, w in found])


def bare(corpus):
    """[I] bool: items without any content."""
    return ~torch.stack([m.present for m in corpus.modalities.values()]).any(0)


@torch.no_grad()
def test_content_bpr_is_the_mean_of_projections_and_bpr(corpus):
    model = made(ContentBPR, corpus, l2=0.1)
    items = []
    for item in range(corpus.n_items):
        pairs = zip(model.project, rows(corpus, item), strict=True)
        found = [p.weight @ x + p.bias for p, x in pairs if x is not None]
        items.append(sum(found) / len(found) if found else None)
    mean = torch.stack([x for x in items if x is not None]).mean(0)
    items = [mean if x is None else x for x in items]
    torch.testing.assert_close(model.encode().items, torch.stack(items))

    total = norm = 0.0
    for user, positive, negative in zip(*(x.flatten().tolist() for x in BATCH), strict=True):
        u, i, j = model.user.weight[user], items[positive], items[negative]
        total += math.log(1 + math.exp(float(u @ j - u @ i))) / 4
        norm += sum(float(x @ x) for x in (u, i, j)) / 8
    losses = model.losses(BATCH)
    assert losses["bpr"].item() == pytest.approx(total, rel=1e-5)
    assert losses["l2"].item() == pytest.approx(0.1 * norm, rel=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 1.0])
@torch.no_grad()
def test_dropoutnet_learns_the_scores_of_factors_with_and_without_them(corpus, dropout):
    model = made(DropoutNet, corpus, dropout=dropout, alpha=5.0, factor_l2=0.5, rounds=3)
    users, items = weighted_factors(
        corpus.train, corpus.n_users, corpus.n_items, 6, alpha=5.0, l2=0.5, rounds=3
    )
    wrong = []
    for user, positive, negative in zip(*(x.flatten().tolist() for x in BATCH), strict=True):
        for item in (positive, negative):
            shown = items[item] * (1 - dropout)
            found = model.of_user(users[user]) @ model.of_item(
                torch.cat([shown, flat(corpus, item)])
            )
            wrong.append(float(found - users[user] @ items[item]) ** 2)
    loss = model.losses(BATCH)["scores"].item()
    assert loss == pytest.approx(sum(wrong) / len(wrong), rel=1e-4)


@torch.no_grad()
def test_dropoutnet_ranks_a_cold_item_by_content_and_a_warm_one_by_both(corpus):
    model, modalities = made(DropoutNet, corpus, rounds=2), corpus.modalities.items()
    items = model.encode().items
    for item in (3, 17):
        known = torch.cat([model.item_factors[item], flat(corpus, item)])
        torch.testing.assert_close(items[item], model.of_item(known))
        features = {n: m.features[[item]] for n, m in corpus.modalities.items()}
        present = {n: m.present[[item]] for n, m in corpus.modalities.items()}
        unknown = torch.cat([torch.zeros(6), flat(corpus, item)])
        found = model.encode_items(features, present)
        torch.testing.assert_close(found[0], model.of_item(unknown))
    bare = model.encode_items({name: torch.full((1, m.width), torch.nan) for name, m in modalities})
    torch.testing.assert_close(bare[0], items.mean(0))


def test_dropoutnet_without_a_round_has_no_factors(corpus):
    with pytest.raises(SettingError) as error:
        made(DropoutNet, corpus, rounds=0)
    assert (error.value.setting, error.value.value) == ("model.rounds", 0)


@torch.no_grad()
def test_dropoutnet_takes_the_factors_of_its_checkpoint(corpus, monkeypatch):
    model = made(DropoutNet, corpus, rounds=2)
    monkeypatch.setattr(dropoutnet, "weighted_factors", None)  # it does not solve again
    teacher = DropoutNet.teacher_in(model.state_dict())
    again = made(DropoutNet, corpus, teacher=teacher)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.encode().items, model.encode().items)


@torch.no_grad()
def test_dropoutnet_with_wmf_is_dropoutnet_that_solves(corpus):
    options = {"alpha": 5.0, "rounds": 2}
    teacher = made(WMF, corpus, l2=0.5, **options).encode()
    given = made(DropoutNet, corpus, teacher=teacher)
    solved = made(DropoutNet, corpus, factor_l2=0.5, **options)
    assert torch.equal(given.encode().items, solved.encode().items)


def test_dropoutnet_refuses_factors_of_another_width(corpus):
    teacher = made(DropoutNet, corpus, rounds=1).encode()
    with pytest.raises(SettingError) as error:
        DropoutNet(corpus, dim=5, teacher=teacher)
    assert (error.value.setting, error.value.value) == ("model.dim", 5)
    assert error.value.problem.endswith("size 6")


def test_factors_that_overflow_name_their_settings(corpus):
    with pytest.raises(SettingError) as error:
        made(WMF, corpus, alpha=1e200, l2=1e-6).encode()
    assert (error.value.setting, error.value.value) == ("model.alpha", 1e200)
    assert "model.l2=1e-06" in error.value.problem


@pytest.mark.parametrize("replaced", [0.0, 1.0])
@torch.no_grad()
def test_clcrec_contrasts_items_with_their_content_and_users_with_either(corpus, replaced):
    model = made(CLCRec, corpus, replaced=replaced, content=0.3, temperature=0.5, l2=0.1)
    assert bare(corpus)[0]
    batch = Pairs(BATCH.user, torch.tensor([9, 9, 10, 0]))  # 0 has no content
    distinct = [0, 9, 10]
    known = {i: normalize(model.item.weight[i], dim=0) for i in distinct}
    looks = {i: normalize(model.of_content(flat(corpus, i)), dim=0) for i in distinct}

    def find(one, own, others):
        powers = {i: math.exp(float(one @ x) / 0.5) for i, x in others.items()}
        return -math.log(powers[own] / sum(powers.values()))

    there = {i: looks[i] for i in distinct if i != 0}
    content = [find(known[i], i, there) for i in there]
    met = {i: looks[i] if replaced and i != 0 else known[i] for i in distinct}
    pairs = list(zip(batch.user.tolist(), batch.item.tolist(), strict=True))
    users = [find(normalize(model.user.weight[u], dim=0), i, met) for u, i in pairs]
    losses = model.losses(batch)
    assert losses["content"].item() == pytest.approx(0.3 * sum(content) / 2, rel=1e-4)
    assert losses["users"].item() == pytest.approx(0.7 * sum(users) / 4, rel=1e-4)
    norm = model.user.weight[batch.user].square().sum() / 8
    norm += model.item.weight[distinct].square().sum() / 6
    assert losses["l2"].item() == pytest.approx(0.1 * norm.item(), rel=1e-4)


@torch.no_grad()
def test_clcrec_ranks_warm_items_by_embedding_and_cold_ones_by_content(corpus):
    model = made(CLCRec, corpus)
    cold = corpus.item_counts() == 0
    items = model.encode().items
    for item in (4, 12):
        assert not cold[item]
        torch.testing.assert_close(items[item], normalize(model.item.weight[item], dim=0))
    model.warm[[4, 12]] = False
    items = model.encode().items
    for item in (4, 12):
        look = normalize(model.of_content(flat(corpus, item)), dim=0)
        torch.testing.assert_close(items[item], look)


def test_dropoutnet_takes_no_factors_of_cold_items_from_a_teacher(corpus):
    corpus = replace(corpus, train=corpus.train.select(corpus.train.item > 8))
    generator = torch.Generator().manual_seed(0)
    teacher = Embeddings(
        *(torch.randn(n, 4, generator=generator) for n in (corpus.n_users, corpus.n_items))
    )
    model = DropoutNet(corpus, dim=4, teacher=teacher)
    cold = corpus.item_counts() == 0
    assert cold.any()
    assert not model.item_factors[cold].any()
    assert torch.equal(model.item_factors[~cold], teacher.items[~cold])
