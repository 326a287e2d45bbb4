"""CAMMSR against its stages written out, and what labels may and may not do."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize

from mmrec.config.errors import SettingError
from mmrec.data import Categories, History, InteractionData, Queries
from mmrec.models import CAMMSR
from mmrec.nn.transformer import layout

DIM, EXPERTS = 4, 3
SEQUENCES = [[3, 1, 4], [], [1], [0, 9, 2, 6, 5]]
HISTORY = History(torch.tensor([3, 1, 4, 1, 0, 9, 2, 6, 5]), torch.tensor([3, 0, 1, 5]))


def build(corpus, **settings):
    torch.manual_seed(0)
    small = {"dim": DIM, "experts": EXPERTS, "inner": 8, "dropout": 0.0, "max_length": 6}
    model = CAMMSR(corpus, **{**small, **settings}).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def corpus(checkerboard):
    """Items 0 to 2 bear no category, items 10 to 19 bear two; item 0 has no content."""
    corpus = checkerboard(missing=6)
    item, category, names = corpus.categories
    more = torch.arange(10, 20)
    item = torch.cat([item[3:], more])
    labels = Categories(item, torch.cat([category[3:], (more + 1) % 8]), names)
    return replace(corpus, categories=labels)


def batch_of(model, corpus, users=None):
    data = InteractionData()
    data.corpus = corpus
    dataset = data.dataset(model)
    return dataset.batch(torch.arange(users or len(dataset)), torch.Generator())


def channels_of(model, item, position):
    """Of one item at one position: what is read, with weights and logits: [C, D], [C], [G]."""
    vectors = model.encode().items[item].split(DIM)
    x = [v + model.position.weight[position] for v in vectors]
    there = [True, *model.project.present[item].tolist()]
    hidden = [x[c] @ model.guide.map[c] + model.guide.bias[c, 0] for c in range(len(x))]
    power = [
        float((model.guide.scalar.weight[0] @ h).exp()) * on
        for h, on in zip(hidden, there, strict=True)
    ]
    share = [p / sum(power) for p in power]
    fused = sum(s * h for s, h in zip(share, hidden, strict=True))
    logits = model.guide.predict.weight @ fused + model.guide.predict.bias
    mixed = []
    for c, row in enumerate(x):
        gate = (row @ model.pool.query[c] + model.pool.query_bias[c, 0]).softmax(0)
        out = [
            row @ model.pool.weight[0, k * DIM : (k + 1) * DIM] + model.pool.bias[0, k]
            for k in range(EXPERTS)
        ]
        scale = sum(there) * share[c]
        mixed.append(row + scale * sum(g * o for g, o in zip(gate, out, strict=True)))
    return torch.stack(mixed), torch.tensor(share), logits


def interest(model, channel, rows):
    """DyT and the blocks of one channel over one sequence: [L, D] -> [L, D]."""
    encoder = model.interest[channel]
    x = encoder.norm.gamma * (encoder.norm.alpha * rows).tanh() + encoder.norm.beta
    for block in encoder.blocks:
        x = block(x, layout(torch.tensor([len(x)])))
    return x


def outputs(model, channel, rows, lengths):
    """The last state of each sequence, read alone: [N, D] -> [B, D]."""
    return torch.stack([interest(model, channel, part)[-1] for part in rows.split(lengths)])


def read(model, sequence):
    """States of one sequence: [L, C, D]."""
    mixed = torch.stack([channels_of(model, item, place)[0] for place, item in enumerate(sequence)])
    return torch.stack([interest(model, c, mixed[:, c]) for c in range(mixed.shape[1])], 1)


@pytest.mark.parametrize("modalities", [("a",), ("a", "b"), ("a", "b", "c")])
def test_scores_are_sums_over_channels_of_each_sequence_alone(checkerboard, modalities):
    corpus = checkerboard(modalities, missing=6)
    model = build(corpus)
    encoded = model.encode()
    scores = model.score(encoded, Queries(torch.arange(4), HISTORY))
    items = encoded.items.view(corpus.n_items, len(modalities) + 1, DIM)
    torch.testing.assert_close(items[:, 0], model.item.weight)
    torch.testing.assert_close(items[:, 1:], model.project())
    for row, sequence in enumerate(SEQUENCES):
        if sequence:
            last = read(model, sequence)[-1]  # [C, D]
            expected = (items * last).sum((1, 2))
            torch.testing.assert_close(scores[row], expected, atol=1e-4, rtol=1e-4)
        else:
            assert not scores[row].any()


def test_cross_entropy_and_category_loss_are_those_written_out(corpus):
    model = build(corpus, contrast=0.0, category_weight=0.5)
    batch = batch_of(model, corpus, users=12)
    items, states, logits, targets = model.encode().items, [], [], []
    labels = {
        *zip(corpus.categories.item.tolist(), corpus.categories.category.tolist(), strict=True)
    }
    for sequence in torch.split(batch.history.item, batch.history.length.tolist()):
        states.append(read(model, sequence.tolist()).flatten(1))
        for place, item in enumerate(sequence.tolist()):
            target = [float((item, g) in labels) for g in range(8)]
            if any(target):
                logits.append(channels_of(model, item, place)[2])
                targets.append(torch.tensor(target))
    assert len(logits) < len(batch.history.item)  # some items bear no category
    terms = model.losses(batch)
    assert terms.keys() == {"cross_entropy", "category"}
    expected = cross_entropy(torch.cat(states) @ items.T, batch.target)
    torch.testing.assert_close(terms["cross_entropy"], expected, atol=1e-4, rtol=1e-4)
    expected = binary_cross_entropy_with_logits(torch.stack(logits), torch.stack(targets)) / 2
    torch.testing.assert_close(terms["category"], expected, atol=1e-5, rtol=1e-5)


def contrast(one, two, temperature, excluded=None):
    """InfoNCE of two [B, D] with cosines, one direction, by a loop."""
    cosine = normalize(one) @ normalize(two).T / temperature
    terms = []
    for row, logits in enumerate(cosine):
        kept = [
            j for j in range(len(logits)) if excluded is None or j == row or not excluded[row][j]
        ]
        terms.append(logits[kept].logsumexp(0) - logits[row])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("swap", ["after", "before", "mask"])
@pytest.mark.parametrize("against", ["swapped", "clean"])
@pytest.mark.parametrize("modalities", [("a",), ("a", "b", "c")])
def test_the_contrast_is_that_of_swapped_sequences(checkerboard, swap, against, modalities):
    corpus = checkerboard(modalities, missing=6)
    model = build(corpus, swap=swap, against=against, swap_rate=0.5, contrast=0.3)
    batch = batch_of(model, corpus, users=5)
    history, encoded = batch.history, model.encode()
    pairs = {("a",): [(0, 1)], ("a", "b", "c"): [(1, 2), (1, 3), (2, 3)]}[modalities]
    torch.manual_seed(7)
    found = model.losses(batch)["contrast"]
    torch.manual_seed(7)
    there = model.present(history.item)
    expected = []
    for first, second in pairs:
        chosen = torch.rand(len(history.item)) < 0.5
        chosen &= there[:, first] & there[:, second]
        assert 0 < chosen.sum() < len(chosen)
        x = encoded.items[history.item].view(len(chosen), -1, DIM)
        place = torch.cat([torch.arange(n) for n in history.length])
        x = x + model.position(place).unsqueeze(1)  # [N, C, D]
        mixed = model.mix(x.transpose(0, 1), there)[0].transpose(0, 1).clone()
        clean = mixed.clone()
        if swap == "before":
            x[chosen, first], x[chosen, second] = x[chosen, second], x[chosen, first].clone()
            mixed = model.mix(x.transpose(0, 1), there)[0].transpose(0, 1)
        elif swap == "mask":
            mixed[chosen, first] = mixed[chosen, second] = 0.0
        else:
            other = mixed[chosen, first].clone()
            mixed[chosen, first], mixed[chosen, second] = mixed[chosen, second], other
        ends = history.length.tolist()
        z = {
            (kind, c): torch.stack(
                [interest(model, c, part)[-1] for part in rows[:, c].split(ends)]
            )
            for kind, rows in (("clean", clean), ("swapped", mixed))
            for c in (first, second)
        }
        one, two = z["swapped", first], z["swapped", second]
        sides = [(one, two), (two, one)]
        if against == "clean":
            sides = [(z["clean", first], one), (z["clean", second], two)]
        expected += [contrast(a, b, 0.2) for a, b in sides]
    expected = 0.3 * torch.stack(expected).mean()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_samples_of_one_user_are_no_negatives_of_each_other(corpus):
    model = build(corpus, samples="prefix", swap_rate=0.0, contrast=1.0)
    batch = batch_of(model, corpus, users=15)
    assert len(batch.user.unique()) < len(batch.user)
    mixed = model.stages(batch.history, model.encode()).mixed
    parts = [mixed[c].split(batch.history.length.tolist()) for c in (1, 2)]
    one, two = (
        torch.stack([interest(model, c, x)[-1] for x in p])
        for c, p in zip((1, 2), parts, strict=True)
    )
    same = (batch.user[:, None] == batch.user).tolist()
    expected = (contrast(one, two, 0.2, same) + contrast(two, one, 0.2, same)) / 2
    torch.testing.assert_close(model.losses(batch)["contrast"], expected, atol=1e-4, rtol=1e-4)


def test_scoring_reads_no_label(corpus, monkeypatch):
    other = corpus.categories._replace(category=(corpus.categories.category + 3) % 8)
    model, twin = build(corpus), build(replace(corpus, categories=other))
    queries = Queries(torch.arange(4), HISTORY)
    assert torch.equal(model.score(model.encode(), queries), twin.score(twin.encode(), queries))
    weights = model.item_weights(), twin.item_weights()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    batch = batch_of(model, corpus)
    assert model.losses(batch)["category"] != twin.losses(batch)["category"]

    def refuse(_):
        raise AssertionError("a label was read")

    monkeypatch.setattr(model.labels, "forward", refuse)
    monkeypatch.setattr(model, "corpus", replace(model.corpus, categories=None))
    model.score(model.encode(), queries)
    model.item_weights()
    with pytest.raises(AssertionError):
        model.losses(batch)


@pytest.mark.parametrize("how", ["none", "empty"])
def test_data_without_categories_name_the_switch_that_turns_guidance_off(corpus, how):
    empty = Categories(torch.empty(0).long(), torch.empty(0).long(), ())
    bare = replace(corpus, categories=None if how == "none" else empty)
    with pytest.raises(SettingError) as error:
        build(bare)
    assert error.value.setting == "model.category_weight"
    assert "model.category_weight=0" in error.value.hint
    model = build(bare, category_weight=0.0)
    assert model.losses(batch_of(model, bare)).keys() == {"cross_entropy", "contrast"}


def test_absent_channels_weigh_nothing_and_the_others_sum_to_one(corpus):
    model = build(corpus)
    weights = torch.stack([*model.item_weights().values()], 1)
    assert [*model.item_weights()] == ["behaviour", *corpus.modalities]
    assert torch.equal(weights > 0, model.present(torch.arange(corpus.n_items)))
    torch.testing.assert_close(weights.sum(1), torch.ones(corpus.n_items))


@pytest.mark.parametrize("guided", [True, False])
def test_weights_along_sequences_are_those_with_which_items_are_read(corpus, guided):
    off = {} if guided else {"channel_weights": "uniform", "category_weight": 0.0}
    model = build(corpus, **off)
    found = model.sequence_weights(HISTORY, model.encode())
    assert [*found] == ["behaviour", *corpus.modalities]
    places = [(item, place) for sequence in SEQUENCES for place, item in enumerate(sequence)]
    if guided:
        expected = torch.stack([channels_of(model, *each)[1] for each in places])
    else:
        there = model.present(HISTORY.item).float()
        expected = there / there.sum(1, keepdim=True)
    torch.testing.assert_close(torch.stack([*found.values()], 1), expected)


def test_times_are_added_to_positions(corpus):
    model = build(corpus, time=True)
    time = torch.tensor([0, 2, 7, 5, 1, 1, 3, 4, 9])
    history = HISTORY._replace(time=time)
    where = layout(history.length)
    encoding = model.time_map(model.time(history, where.position))
    found = model.stages(history, model.encode()).embedded
    model.time = None
    without = model.stages(history, model.encode()).embedded
    torch.testing.assert_close(found, without + encoding)


def test_uniform_weights_add_the_experts_as_they_are(corpus):
    model = build(corpus, channel_weights="uniform")
    x = torch.randn(3, 5, DIM)
    present = torch.ones(5, 3, dtype=torch.bool)
    torch.testing.assert_close(model.mix(x, present)[0], x + model.pool(x))


@pytest.mark.parametrize(
    "settings",
    [
        {"pool": "separate"},
        {"gate": "attention"},
        {"top_k": 2},
        {"channel_weights": "uniform"},
        {"category_weight": 0.0},
        {"channel_weights": "uniform", "category_weight": 0.0},
        {"experts": 0, "channel_weights": "uniform", "category_weight": 0.0},
        {"contrast": 0.0},
        {"time": True},
        {"norm": "layernorm"},
        {"norm": "none"},
        {"norm_inside": "dyt"},
        {"samples": "prefix"},
    ],
)
def test_every_alternative_changes_the_losses_and_trains_all_that_it_has(corpus, settings):
    def losses(**settings):
        torch.manual_seed(0)
        model = CAMMSR(corpus, **{"dim": 8, "inner": 8, "dropout": 0.0, **settings})
        torch.manual_seed(1)
        return model, model.losses(batch_of(model, corpus))

    model, terms = losses(**settings)
    sum(terms.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    _, usual = losses()
    assert terms.keys() != usual.keys() or any(terms[k] != usual[k] for k in terms)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"experts": 0}, "model.experts"),
        ({"experts": 0, "channel_weights": "uniform"}, "model.experts"),
        ({"top_k": 4}, "model.top_k"),
        ({"top_k": 0}, "model.top_k"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(corpus, settings, name):
    with pytest.raises(SettingError) as error:
        build(corpus, **settings)
    assert error.value.setting == name


def test_no_later_item_changes_an_earlier_state(corpus):
    model = build(corpus)
    longer = [3, 1, 4, 15, 9]
    states = [
        model.read(History(torch.tensor(x), torch.tensor([len(x)])), model.encode())
        for x in (longer[:n] for n in range(1, 6))
    ]
    for short, long in pairwise(states):
        torch.testing.assert_close(long[: len(short)], short, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("users", [[0], [0, 1], []])
def test_users_without_a_history_score_zero(corpus, users):
    model = build(corpus).eval()
    history = History(torch.empty(0).long(), torch.zeros(len(users)).long())
    scores = model.score(model.encode(), Queries(torch.tensor(users).long(), history))
    assert scores.shape == (len(users), model.corpus.n_items)
    assert not scores.any()
