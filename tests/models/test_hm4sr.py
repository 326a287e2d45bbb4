"""HM4SR against its formulas written out, and what `as_published` changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

from mmrec.config.errors import SettingError
from mmrec.data import DataError, History, InteractionData, Queries
from mmrec.models import HM4SR
from mmrec.nn.transformer import layout

DIM, EXPERTS = 4, 3
SEQUENCES = [[3, 1, 4], [], [1], [0, 9, 2, 6, 5]]
TIMES = [[0, 2, 7], [], [5], [1, 1, 3, 4, 9]]
HISTORY = History(
    torch.tensor([3, 1, 4, 1, 0, 9, 2, 6, 5]),
    torch.tensor([3, 0, 1, 5]),
    torch.tensor([0, 2, 7, 5, 1, 1, 3, 4, 9]),
)


def build(corpus, **settings):
    torch.manual_seed(0)
    small = {"dim": DIM, "experts": EXPERTS, "inner": 8, "dropout": 0.0, "max_length": 6}
    model = HM4SR(corpus, **{**small, **settings}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def corpus(checkerboard):
    corpus = checkerboard(missing=6)
    item, category, names = corpus.categories
    labels = corpus.categories._replace(item=item[3:], category=category[3:], names=names)
    return replace(corpus, categories=labels)


def test_weights_along_sequences_are_shares_of_the_spread_of_scores(corpus):
    model = build(corpus)
    encoded = model.encode()
    found = model.sequence_weights(HISTORY, encoded)
    assert [*found] == ["behaviour", *corpus.modalities]
    states = model.read(HISTORY, encoded).split(DIM, 1)
    each = zip(states, encoded.items.split(DIM, 1), strict=True)
    spread = torch.stack([(s @ items.T).std(1, correction=0) for s, items in each], 1)
    expected = spread / spread.sum(1, keepdim=True)
    torch.testing.assert_close(torch.stack([*found.values()], 1), expected)
    alone = History(HISTORY.item[4:], HISTORY.length[3:], HISTORY.time[4:])
    for name, weight in model.sequence_weights(alone, encoded).items():
        torch.testing.assert_close(weight, found[name][4:])


def batch_of(model, corpus, rows):
    data = InteractionData()
    data.corpus = corpus
    return data.dataset(model).batch(torch.arange(rows), torch.Generator())


def mixed_of(model, sequence, times):
    """One sequence after both kinds of experts: [L, C, D], and its times [L, 2 D]."""
    alone = History(torch.tensor(sequence), torch.tensor([len(sequence)]), torch.tensor(times))
    time = model.time(alone, torch.arange(len(sequence)))
    found = []
    for place, item in enumerate(sequence):
        x = [v + model.position.weight[place] for v in model.encode().items[item].split(DIM)]
        whole, rows = torch.cat(x), []
        for c, own in enumerate(x):
            gate = (own @ model.gate[c] + model.gate_bias[c, 0]).softmax(0)
            mix = 0
            for k in range(EXPERTS):
                width = len(whole)
                out = model.expert.weight[k * width : (k + 1) * width] @ whole
                out = out + model.expert.bias[k * width : (k + 1) * width]
                mix = mix + gate[k] * out[c * DIM : (c + 1) * DIM]
            rows.append(own + model.strength[c] * mix)
        route = (model.time_gate.weight @ time[place] + model.time_gate.bias).softmax(0)
        scale = sum(r * expert for r, expert in zip(route, model.temporal, strict=True))
        found.append(torch.stack(rows) * scale.view(len(x), DIM))
    return torch.stack(found), time


def last_state(model, channel, rows):
    """LayerNorm and blocks over one sequence: [L, D] -> [D]."""
    return model.interest[channel](rows, layout(torch.tensor([len(rows)])))[-1]


@pytest.mark.parametrize("modalities", [("a",), ("a", "b", "c")])
@pytest.mark.parametrize("as_published", [False, True])
def test_scores_are_sums_over_channels_of_each_sequence_alone(
    checkerboard, modalities, as_published
):
    model = build(checkerboard(modalities, missing=6), as_published=as_published)
    encoded = model.encode()
    scores = model.score(encoded, Queries(torch.arange(4), HISTORY))
    for row, (sequence, times) in enumerate(zip(SEQUENCES, TIMES, strict=True)):
        if sequence:
            mixed, _ = mixed_of(model, sequence, times)
            states = [last_state(model, c, mixed[:, c]) for c in range(len(modalities) + 1)]
            expected = encoded.items @ torch.cat(states)
            torch.testing.assert_close(scores[row], expected, atol=1e-4, rtol=1e-4)
        else:
            assert not scores[row].any()


def contrast(one, two, target, temperature, *, published):
    """InfoNCE by a loop; pairs with the same target are left out, or have the logit 0."""
    terms = []
    for b, row in enumerate(normalize(one)):
        total = 0.0
        for j, other in enumerate(normalize(two)):
            logit = row @ other / temperature
            if j != b and target[j] == target[b]:
                total = total + (1.0 if published else 0.0)
            else:
                total = total + logit.exp()
        terms.append(total.log() - row @ normalize(two[b], dim=0) / temperature)
    return torch.stack(terms).mean()


@pytest.mark.parametrize("samples", ["causal", "prefix"])
@pytest.mark.parametrize("as_published", [False, True])
def test_losses_are_those_written_out(corpus, samples, as_published):
    weights = {"category_weight": 0.5, "id_contrast": 0.3, "placeholder_contrast": 0.7}
    model = build(corpus, samples=samples, as_published=as_published, mask_share=0.5, **weights)
    batch = batch_of(model, corpus, 40)
    history = batch.history
    torch.manual_seed(3)
    found = model.losses(batch)
    torch.manual_seed(3)
    luck = torch.rand(len(history.item), dtype=torch.float64)

    ends = history.length.tolist()
    parts = [x.split(ends) for x in (history.item, history.time, luck)]
    targets = dict(zip(batch.position.tolist(), batch.target.tolist(), strict=True))
    last = [targets[int(place)] for place in history.last()]
    assert len({*last}) < len(last)  # some rows have the same target
    states, outputs, placed = [], [], []
    for sequence, times, draw in zip(*parts, strict=True):
        mixed, time = mixed_of(model, sequence.tolist(), times.tolist())
        where = layout(torch.tensor([len(mixed)]))
        read = [each(mixed[:, c], where) for c, each in enumerate(model.interest)]
        states.append(torch.cat(read, 1))
        outputs.append([x[-1] for x in read])
        chosen = draw.argsort()[: len(mixed) // 2]
        row = []
        for m, placeholder in enumerate(model.placeholder):
            x = mixed[:, 1 + m].clone()
            x[chosen] = placeholder(time)[chosen]
            row.append(last_state(model, 1 + m, x))
        placed.append(row)
    logits = torch.cat(states)[batch.position] @ model.encode().items.T
    expected = {"cross_entropy": cross_entropy(logits, batch.target)}
    labelled = [i for i in history.item.tolist() if i > 2]
    truth = torch.stack([torch.eye(8)[i % 8] for i in labelled])  # colours alternate
    loss = binary_cross_entropy_with_logits(model.predict(model.encode().items[labelled]), truth)
    expected["category"] = 0.5 * loss
    ids = torch.stack([row[0] for row in outputs])
    loss = contrast(ids, model.item.weight[last], last, 0.2, published=as_published)
    expected["id_contrast"] = 0.3 * loss
    terms = [
        contrast(
            torch.stack([row[1 + m] for row in outputs]),
            torch.stack([row[m] for row in placed]),
            last,
            1.0,
            published=as_published,
        )
        for m in range(2)
    ]
    expected["placeholder"] = 0.7 * sum(terms) / 2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_published_temporal_experts_are_kept_but_not_trained(corpus):
    trained, published = (build(corpus, as_published=flag) for flag in (False, True))
    assert "temporal" in dict(trained.named_parameters())
    assert "temporal" not in dict(published.named_parameters())
    assert "temporal" in published.state_dict()


def test_scoring_reads_no_label(corpus):
    labels = corpus.categories._replace(category=(corpus.categories.category + 3) % 8)
    model, twin = build(corpus), build(replace(corpus, categories=labels))
    queries = Queries(torch.arange(4), HISTORY)
    assert torch.equal(model.score(model.encode(), queries), twin.score(twin.encode(), queries))
    batch = batch_of(model, corpus, 20)
    assert model.losses(batch)["category"] != twin.losses(batch)["category"]


def test_losses_can_be_turned_off_and_then_need_nothing(corpus):
    bare = replace(corpus, categories=None)
    with pytest.raises(SettingError) as error:
        build(bare)
    assert error.value.setting == "model.category_weight"
    off = {"category_weight": 0.0, "id_contrast": 0.0, "placeholder_contrast": 0.0}
    model = build(bare, **off)
    assert model.losses(batch_of(model, bare, 20)).keys() == {"cross_entropy"}
    assert not any(n.startswith(("predict", "placeholder")) for n, _ in model.named_parameters())


def test_data_without_times_are_refused(corpus):
    with pytest.raises(DataError):
        build(replace(corpus, train=replace(corpus.train, time=None)))


@pytest.mark.parametrize("users", [[0], [0, 1], []])
def test_users_without_a_history_score_zero(corpus, users):
    model = build(corpus).eval()
    history = History(torch.empty(0).long(), torch.zeros(len(users)).long(), torch.empty(0).long())
    scores = model.score(model.encode(), Queries(torch.tensor(users).long(), history))
    assert scores.shape == (len(users), model.corpus.n_items)
    assert not scores.any()
