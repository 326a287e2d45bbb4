"""MAMEX against a plain re-computation, item by item."""

import logging
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from lightning import seed_everything
from torch.nn.functional import normalize

from mmrec.config.errors import SettingError
from mmrec.data import (
    DataError,
    InteractionData,
    PlantedData,
    Queries,
    Triplets,
    content_hash,
    planted,
)
from mmrec.models import BPR, MAMEX
from mmrec.models.mamex import ModalityVectors, alignment, balance, thinned
from mmrec.nn.schedules import Constant, TooFewExperts


@pytest.fixture(scope="module")
def corpus(checkerboard):
    """Eight items lack each of three modalities, the first of them all."""
    return checkerboard(modalities=("visual", "textual", "audio"), missing=8)


def made(corpus, **options):
    seed_everything(0, verbose=False)
    return MAMEX(corpus, dim=6, **options).eval()


def naive_item(model, corpus, item):
    """One item's vector, its modalities' vectors and their gate."""
    vectors, there = [], []
    for mixture, modality in zip(model.mixtures, corpus.modalities.values(), strict=True):
        row = modality.features[item]
        row = row / max(row.norm().item(), 1e-12)
        logits = mixture.gate(row)
        kept = logits.topk(2).indices
        gates = logits[kept].softmax(0)
        weight = mixture.expert.weight.view(4, 6, -1)
        bias = mixture.expert.bias.view(4, 6)
        mixed = sum(g * (weight[e] @ row + bias[e]) for g, e in zip(gates, kept, strict=True))
        present = bool(modality.present[item])
        vectors.append(mixed if present else torch.zeros(6))
        there.append(present)
    hidden = model.fuse[0](torch.cat(vectors)).relu()
    logits = model.fuse[3](hidden)
    powers = [math.exp(x) if p else 0.0 for x, p in zip(logits.tolist(), there, strict=True)]
    share = [p / sum(powers) if sum(powers) else 0.0 for p in powers]
    return sum(s * v for s, v in zip(share, vectors, strict=True)), vectors, share, there


@torch.no_grad()
def test_items_are_what_a_loop_over_items_and_experts_makes_of_them(corpus):
    model = made(corpus)
    found = [naive_item(model, corpus, item) for item in range(corpus.n_items)]
    with_content = [any(there) for *_, there in found]
    assert 0 < with_content.count(False) < 8
    mean = torch.stack([v for (v, *_), there in zip(found, with_content, strict=True) if there])
    expected = torch.stack(
        [v if there else mean.mean(0) for (v, *_), there in zip(found, with_content, strict=True)]
    )
    encoded = model.encode()
    torch.testing.assert_close(encoded.items, expected)
    scores = model.score(encoded, Queries(torch.arange(4)))
    torch.testing.assert_close(scores, model.user.weight[:4] @ expected.T)
    weights = model.item_weights()
    for m, name in enumerate(("visual", "textual", "audio")):
        torch.testing.assert_close(weights[name], torch.tensor([s[m] for *_, s, _ in found]))


def test_losses_by_hand(corpus):
    model = made(corpus, align=0.5, balance=0.25, l2=0.1)
    model.route_by(Constant(coverage=2.0, confidence=0.3, top_k=2))
    batch = Triplets(torch.tensor([0, 1]), torch.tensor([10, 11]), torch.tensor([[20], [21]]))
    found = model.losses(batch)
    views = model.catalogue()
    u, i, j = model.user.weight[:2], views.items[[10, 11]], views.items[[20, 21]]
    comparisons = ((u * i).sum(1) - (u * j).sum(1)).tolist()
    bpr = sum(math.log(1 + math.exp(-x)) for x in comparisons) / 2
    assert found["bpr"].item() == pytest.approx(bpr, rel=1e-5)
    norm = (u.square().sum() + i.square().sum() + j.square().sum()).item() / 4
    assert found["l2"].item() == pytest.approx(0.1 * norm, rel=1e-5)

    each = [naive_item(model, corpus, item) for item in range(corpus.n_items)]
    apart = 0.0
    for m in range(3):
        rows = [(e, v[m]) for e, v, _, there in each if there[m]]
        apart += sum((e - x).square().mean().item() for e, x in rows) / len(rows)
    assert found["align"].item() == pytest.approx(0.5 * apart, rel=1e-4)

    total = 0.0
    for mixture, modality in zip(model.mixtures, corpus.modalities.values(), strict=True):
        rows = normalize(modality.features)[modality.present]
        mean = mixture.gate(rows).softmax(1).mean(0)
        total += sum(0.25 * math.log(0.25 / p) for p in mean.tolist())
    shares = torch.tensor([s for _, _, s, there in each if any(there)])
    equal = torch.tensor([[t / sum(there) for t in there] for *_, there in each if any(there)])
    means = zip(equal.mean(0).tolist(), shares.mean(0).tolist(), strict=True)
    total += sum(q * math.log(q / p) for q, p in means)
    assert found["balance"].item() == pytest.approx(0.25 * 2.0 * total, rel=1e-4)

    load = (views.share.unsqueeze(-1) * views.kept).flatten(1)[[10, 11]]
    assert not torch.equal(views.kept, views.full)
    torch.testing.assert_close(model._gates[-1][14:26], load.sum(0))

    joint = (views.share.unsqueeze(-1) * views.full).flatten(1)[[10, 11]]
    of_each = -(joint * joint.clamp(min=1e-12).log()).sum(1)
    counts = torch.stack([m.present for m in corpus.modalities.values()]).sum(0)[[10, 11]]
    entropy = (of_each / (4 * counts).log()).mean()
    assert found["confidence"].item() == pytest.approx(0.3 * entropy.item(), rel=1e-4)


@pytest.mark.parametrize("lacking", [8, 15])
def test_what_items_lack_is_no_decision_of_the_router(checkerboard, quiet_trainer, lacking):
    """Of experts that are evenly used none is dead, and nothing is decided, whatever is missing."""
    corpus = checkerboard(modalities=("visual", "textual"), missing=lacking)
    model = made(corpus).train()
    for part in (model.fuse[0], model.fuse[3], *(mixture.gate for mixture in model.mixtures)):
        torch.nn.init.zeros_(part.weight)
        if part.bias is not None:
            torch.nn.init.zeros_(part.bias)
    model.route_by(Constant(confidence=1.0, top_k=None))
    model.optimizer = partial(torch.optim.SGD, lr=0.0)
    data = InteractionData(batch_size=64)
    data.corpus = corpus
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(model, data)
    found = trainer.callback_metrics
    for name in ("pair_entropy", "gate_entropy", "load_entropy"):
        assert found[f"router/{name}"].item() == pytest.approx(1, abs=1e-5)
    assert found["router/dead"] == 0


def test_a_modality_that_nearly_all_items_lack_is_no_collapse(checkerboard, quiet_trainer, caplog):
    corpus = checkerboard(missing=92)
    visual = corpus.modalities["visual"]
    whole = replace(
        visual, present=torch.ones_like(visual.present), digest=f"all of {visual.digest}"
    )
    corpus = replace(corpus, modalities={**corpus.modalities, "textual": whole})
    model = made(corpus, experts=1).train()
    model.route_by(Constant(coverage=1.0, top_k=1))
    data = InteractionData(batch_size=64)
    data.corpus = corpus
    trainer = quiet_trainer(max_epochs=6)
    trainer.fit(model, data)
    found = trainer.callback_metrics
    assert found["router/largest_load"] > 0.9
    assert 0 <= found["router/load_entropy"] <= found["router/gate_entropy"] + 1e-6 <= 1 + 1e-5
    assert "has had more than" not in caplog.text


@torch.no_grad()
def test_the_softmax_is_over_the_items_of_the_batch_by_cosine(corpus):
    model = made(corpus, loss="softmax", temperature=0.5, l2=0.1)
    batch = Triplets(torch.tensor([0, 1, 2]), torch.tensor([10, 11, 10]), torch.zeros(3, 1).long())
    views, expected = model.catalogue(), 0.0
    items = views.items
    for user, own in ((0, 10), (1, 11), (2, 10)):
        u = normalize(model.user.weight[user], dim=0)
        power = {i: math.exp(float(u @ normalize(items[i], dim=0)) / 0.5) for i in (10, 11)}
        expected -= math.log(power[own] / sum(power.values())) / 3
    losses = model.losses(batch)
    assert losses["softmax"].item() == pytest.approx(expected, rel=1e-5)
    norm = model.user.weight[:3].square().sum() + items[[10, 11]].square().sum()
    assert losses["l2"].item() == pytest.approx(0.1 * norm.item() / 6, rel=1e-5)
    # An item without content is the mean of unit vectors, which is shorter than they are.
    bare = ~views.present.any(1)
    assert bare.any()
    unit = normalize(items, dim=1)
    unit[bare] = unit[~bare].mean(0)
    cosines = normalize(model.user.weight[:2], dim=1) @ unit.T
    torch.testing.assert_close(model.score(model.encode(), Queries(torch.arange(2))), cosines)
    features = {name: m.features[[9]] for name, m in corpus.modalities.items()}
    present = {name: m.present[[9]] for name, m in corpus.modalities.items()}
    found = model.encode_items(features, present)[0]
    torch.testing.assert_close(found, normalize(items[9], dim=0))


def test_alignment_and_balance_of_two_items():
    items = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    each = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 4.0]]])
    present = torch.tensor([[True, False], [True, True]])
    full = torch.tensor([[[0.5, 0.5], [0.9, 0.1]], [[0.7, 0.3], [0.2, 0.8]]])
    share = torch.tensor([[1.0, 0.0], [0.6, 0.4]])
    views = ModalityVectors(items, each, present, full, full, share)
    assert alignment(views).item() == pytest.approx((2 + 2) / 2 + 8)
    expected = 0.0
    for mean in ([0.6, 0.4], [0.2, 0.8]):  # the second has one item
        expected += sum(0.5 * math.log(0.5 / p) for p in mean)
    expected += 0.75 * math.log(0.75 / 0.8) + 0.25 * math.log(0.25 / 0.2)
    assert balance(views).item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_the_order_of_modalities_changes_nothing(corpus):
    names = ["audio", "visual", "textual"]
    other = replace(corpus, modalities={name: corpus.modalities[name] for name in names})
    model, turned = made(corpus), made(other)
    place = [model.names.index(name) for name in names]
    turned.user.weight.copy_(model.user.weight)
    for mixture, p in zip(turned.mixtures, place, strict=True):
        mixture.load_state_dict(model.mixtures[p].state_dict())
    first, last = model.fuse[0], model.fuse[3]
    columns = first.weight.view(6, 3, 6)[:, place].flatten(1)
    turned.fuse[0].load_state_dict({"weight": columns, "bias": first.bias})
    turned.fuse[3].load_state_dict({"weight": last.weight[place], "bias": last.bias[place]})
    torch.testing.assert_close(turned.encode(), model.encode())
    for name, weight in model.item_weights().items():
        torch.testing.assert_close(turned.item_weights()[name], weight)
    batch = Triplets(torch.tensor([0, 1]), torch.tensor([10, 11]), torch.tensor([[20], [21]]))
    expected, found = model.losses(batch), turned.losses(batch)
    assert expected["align"] > 0
    assert expected["balance"] > 0
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["gate", "mean", "sum", "concat"])
def test_new_items_are_encoded_as_known_ones_are(corpus, fusion):
    model = made(corpus, fusion=fusion)
    nan = {
        name: m.features.masked_fill(~m.present.unsqueeze(1), math.nan)
        for name, m in corpus.modalities.items()
    }
    everything = model.encode_items(nan)
    torch.testing.assert_close(everything, model.encode().items)
    torch.testing.assert_close(
        model.encode_items({name: 7 * x[5:9] for name, x in nan.items()}), everything[5:9]
    )
    alone = model.encode_items({"textual": nan["textual"][20:25]})
    assert alone.isfinite().all()
    hidden = {
        name: x if name == "textual" else torch.full_like(x, math.nan) for name, x in nan.items()
    }
    torch.testing.assert_close(model.encode_items(hidden)[20:25], alone)


@pytest.mark.parametrize(
    ("features", "row", "column", "found"),
    [
        ({"visual": torch.ones(2, 9)}, None, "visual", "of shape [2, 9]"),
        (
            {"visual": torch.ones(2, 8), "textual": torch.ones(3, 9)},
            None,
            None,
            "features of visual: 2, textual: 3",
        ),
        ({}, None, None, "features of none"),
        ({"visual": torch.tensor([[1.0] * 8, [math.inf] * 8])}, 1, "visual", "infinite"),
        (
            {"visual": torch.tensor([[math.nan] * 8, [math.nan] * 7 + [1.0]])},
            1,
            "visual",
            "partly NaN",
        ),
        ({"visual": torch.ones(8)}, None, "visual", "of shape [8]"),
        ({"visual": torch.tensor(1.0)}, None, "visual", "of shape []"),
        ({"visual": None}, None, "visual", "NoneType"),
        ({"visual": [["a"] * 8] * 2}, None, "visual", "list"),
    ],
)
def test_features_of_new_items_that_cannot_be_are_refused(corpus, features, row, column, found):
    with pytest.raises(DataError) as error:
        made(corpus).encode_items(features)
    place = (error.value.file, error.value.row, error.value.column)
    assert place == ("new items", row, column)
    assert error.value.found.startswith(found)


@pytest.mark.parametrize(
    ("present", "found"),
    [
        ({"visual": [True]}, "torch.bool of shape [1]"),
        ({"visual": [0, 2]}, "torch.int64 of shape [2]"),
        ({"visual": ["yes", "no"]}, "list"),
    ],
)
def test_presence_of_new_items_that_cannot_be_is_refused(corpus, present, found):
    with pytest.raises(DataError) as error:
        made(corpus).encode_items({"visual": torch.ones(2, 8)}, present)
    assert (error.value.file, error.value.column) == ("new items", "present[visual]")
    assert error.value.found.startswith(found)


@pytest.mark.parametrize(
    "given",
    [
        ({"smell": torch.ones(2, 8)},),
        ({"visual": torch.ones(2, 8)}, {"smell": [True, False]}),
    ],
)
def test_a_modality_of_new_items_that_training_had_not_is_refused(corpus, given):
    with pytest.raises(DataError) as error:
        made(corpus).encode_items(*given)
    assert error.value.problem == "unknown modality smell"
    assert error.value.expected == "the modalities of training: visual, textual, audio"


@torch.no_grad()
def test_presence_of_new_items_may_be_zeros_and_ones(corpus):
    model, features = made(corpus), {"visual": torch.ones(2, 8)}
    expected = model.encode_items(features, {"visual": torch.tensor([True, False])})
    assert torch.equal(model.encode_items(features, {"visual": [1, 0]}), expected)


def test_a_step_may_hide_a_rare_modality_from_all(corpus):
    rare = corpus.modalities["audio"]
    there = torch.zeros(corpus.n_items, dtype=torch.bool)
    there[9] = True
    features = rare.features * there.unsqueeze(1)
    rare = replace(rare, present=there, features=features, digest=content_hash([features, there]))
    model = made(replace(corpus, modalities={**corpus.modalities, "audio": rare}))
    model.train().modality_dropout = 0.999
    torch.manual_seed(0)
    for _ in range(3):
        batch = Triplets(torch.tensor([0]), torch.tensor([9]), torch.tensor([[20]]))
        assert all(term.isfinite() for term in model.losses(batch).values())


def test_a_checkpoint_of_other_modalities_is_refused(corpus):
    checkpoint = {}
    made(corpus).on_save_checkpoint(checkpoint)
    turned = replace(corpus, modalities=dict(reversed(corpus.modalities.items())))
    with pytest.raises(DataError) as error:
        made(turned).on_load_checkpoint(checkpoint)
    assert (error.value.column, error.value.found) == ("modalities", "visual, textual, audio")
    assert error.value.expected == "audio, textual, visual as in this run"


def test_concatenated_modalities_have_no_weights(corpus):
    assert made(corpus, fusion="concat").item_weights() == {}


def test_features_of_new_items_need_the_name_of_their_modality(corpus):
    with pytest.raises(TypeError, match=r'to array, \{"visual": array, "textual": array'):
        made(corpus).encode_items(torch.ones(2, 8))
    with pytest.raises(TypeError, match=r"present: found list; expected a mapping"):
        made(corpus).encode_items({"visual": torch.ones(2, 8)}, [True, True])


def test_a_checkpoint_that_does_not_tell_its_modalities_is_accepted(corpus):
    checkpoint = {}
    model = made(corpus)
    model.on_save_checkpoint(checkpoint)
    del checkpoint["mmrec"]["modalities"]
    model.on_load_checkpoint(checkpoint)
    checkpoint["mmrec"].clear()
    with pytest.raises(DataError) as error:
        model.on_load_checkpoint(checkpoint)
    assert (error.value.column, error.value.found) == ("model", "None")


@torch.no_grad()
def test_a_model_in_training_encodes_new_items_as_it_would_after(corpus):
    model = made(corpus, dropout=0.5, modality_dropout=0.5)
    features = {"textual": torch.ones(2, 9).masked_fill(torch.eye(2, 9) > 0, 3.0)}
    features["textual"][1] = math.nan  # the mean item
    expected = model.eval().encode_items(features)
    assert torch.equal(model.train().encode_items(features), expected)
    assert model.training
    model.fuse.eval()  # a frozen part stays so
    model.encode_items(features)
    assert model.training
    assert not model.fuse.training


@pytest.mark.parametrize("fusion", ["gate", "mean", "sum", "concat"])
@pytest.mark.parametrize("loss", ["bpr", "softmax"])
@pytest.mark.parametrize("top_k", [2, None])
def test_half_precision_has_finite_gradients_where_items_lack_all(corpus, fusion, loss, top_k):
    model = made(corpus, fusion=fusion, loss=loss).train()
    model.route_by(Constant(coverage=1.0, top_k=top_k))
    users = torch.arange(corpus.n_items) % corpus.n_users
    items = torch.arange(corpus.n_items).flip(0)  # of batches of softmax, bare ones too
    with torch.autocast("cpu", dtype=torch.float16):
        total = sum(model.losses(Triplets(users, items, items.unsqueeze(1))).values())
    total.backward()
    assert [key for key, p in model.named_parameters() if not p.grad.isfinite().all()] == []


@torch.no_grad()
@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_noise_reaches_gates_in_training_only(corpus, loss):
    model = made(corpus, loss=loss, dropout=0.0)
    model.route_by(Constant(noise=5.0, top_k=2))
    batch = Triplets(corpus.train.user, corpus.train.item, corpus.train.item.unsqueeze(1) * 0)
    first, second = (model.train().losses(batch)["l2"] for _ in range(2))
    assert first != second
    one, two = (model.eval().encode().items for _ in range(2))
    assert torch.equal(one, two)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_new_items_are_encoded_in_the_models_own_digits(corpus, dtype):
    features = {name: m.features[:3] for name, m in corpus.modalities.items()}
    model = made(corpus)
    expected = model.encode_items(features)
    found = model.to(dtype).encode_items(features)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("modalities", "chance", "told"),
    [(("visual",), 0.5, 1), (("visual",), 0.0, 0), (("visual", "textual"), 0.5, 0)],
)
def test_training_tells_that_one_modality_cannot_be_hidden(
    modalities, chance, told, checkerboard, quiet_trainer, caplog
):
    message = "model.modality_dropout has no effect"
    model, data = made(checkerboard(modalities), modality_dropout=chance), InteractionData()
    data.corpus = checkerboard(modalities)
    assert message not in caplog.text  # a run that is only opened says nothing
    quiet_trainer(max_epochs=1).fit(model.train(), data)
    assert caplog.text.count(message) == told


@torch.no_grad()
def test_what_is_said_to_be_absent_may_be_anything(corpus):
    model, there = made(corpus), {"textual": torch.tensor([True, False])}
    features = {"textual": torch.ones(2, 9)}
    expected = model.encode_items(features, there)
    features["textual"][1, 3] = math.nan
    assert torch.equal(model.encode_items(features, there), expected)


def test_a_model_of_ids_cannot_encode_new_items(corpus):
    with pytest.raises(TypeError, match=r"BPR cannot score items that were not .* example mamex"):
        BPR(corpus).encode_items({})


def test_features_not_given_are_absent(corpus):
    content = made(corpus).item_features.new({"textual": torch.ones(2, 9)})
    assert content.present.tolist() == [[False, True, False]] * 2
    assert not content.rows[0].any()
    assert content.rows[1].norm(dim=1).tolist() == pytest.approx([1, 1])
    hidden = {"textual": torch.tensor([True, False])}
    assert made(corpus).item_features.new({"textual": torch.ones(2, 9)}, hidden).present.sum() == 1


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_hidden_modalities_are_random_and_never_the_last(chance):
    torch.manual_seed(0)
    present = torch.rand(20_000, 3) < 0.7
    left = thinned(present, chance)
    assert (left <= present).all()
    assert torch.equal(left.any(1), present.any(1))
    alone = present.sum(1) == 1
    assert torch.equal(left[alone], present[alone])
    several = present.all(1)
    expected = 1 - chance + chance**3 / 3  # one of three comes back where all would go
    assert left[several].float().mean() == pytest.approx(expected, abs=0.02)


def test_modalities_are_hidden_in_training_only(corpus):
    model = made(corpus, modality_dropout=0.5, dropout=0.0)
    one, two = model.catalogue(), model.catalogue()
    assert torch.equal(one.items, two.items)
    model.train()
    assert not torch.equal(model.catalogue().present, model.catalogue().present)


def test_training_tells_of_items_without_content(quiet_trainer, caplog):
    data = PlantedData(world=partial(planted, users=60, items=60, missing=0.5))
    with caplog.at_level(logging.WARNING, logger="mmrec"):
        model = made(data.corpus)
        assert "no content" not in caplog.text  # a run that is only opened says nothing
        quiet_trainer(max_epochs=1).fit(model.train(), data)
    bare = int((~model.item_features.present.any(1)).sum())
    assert bare > 0
    assert caplog.text.count(f"{bare} of 60 items have no content") == 1


def test_items_without_content_are_ranked_as_the_mean(corpus):
    model = made(corpus)
    bare = torch.stack([~m.present for m in corpus.modalities.values()]).all(0)
    assert bare.any()
    items = model.encode().items
    mean = items[~bare].mean(0).expand(int(bare.sum()), -1)
    torch.testing.assert_close(items[bare], mean)
    assert (torch.stack(list(model.item_weights().values()), 1)[bare] == 0).all()


def test_gates_of_experts_and_modalities_multiply(corpus):
    model = made(corpus)
    gates = model.item_gates()
    assert model.experts[:5] == ("visual/1", "visual/2", "visual/3", "visual/4", "textual/1")
    weights = torch.stack(list(model.item_weights().values()), 1)
    torch.testing.assert_close(gates.unflatten(1, (3, 4)).sum(2), weights)
    assert ((gates > 0).unflatten(1, (3, 4)).sum(2) <= 2).all()
    users, items = torch.tensor([0, 5]), torch.tensor([30, 31])
    assert torch.equal(model.pair_gates(Queries(users), items), gates[items])


@pytest.mark.parametrize(("name", "value"), [("experts", 0), ("modality_dropout", 1.0)])
def test_what_cannot_be_is_refused(corpus, name, value):
    with pytest.raises(SettingError) as error:
        made(corpus, **{name: value})
    assert (error.value.setting, error.value.value) == (f"model.{name}", value)


def test_more_experts_than_a_modality_has_cannot_be_kept(corpus):
    with pytest.raises(TooFewExperts) as error:
        made(corpus).route_by(Constant(top_k=5))
    assert (error.value.setting, error.value.value) == ("router_schedule.top_k", 5)
    assert error.value.problem.startswith("the model has 4 experts per modality (visual/1, ")


def test_a_modality_that_no_item_has_is_refused(corpus):
    nobody = replace(
        corpus.modalities["audio"],
        present=torch.zeros(corpus.n_items, dtype=torch.bool),
        features=torch.zeros_like(corpus.modalities["audio"].features),
    )
    with pytest.raises(SettingError) as error:
        made(replace(corpus, modalities={**corpus.modalities, "audio": nobody}))
    assert error.value.setting == "data.modalities"
    assert error.value.problem == "no item has modality audio"
