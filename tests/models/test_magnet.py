"""MAGNET against its formulas computed pair by pair, and its router's life in a run."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from lightning import seed_everything
from torch.nn.functional import cross_entropy, normalize

from mmrec.config.errors import SettingError
from mmrec.data import DataError, PlantedData, Queries, Triplets, planted
from mmrec.evaluation.protocol import Evaluation
from mmrec.graphs import augmented_adjacency, normalized_adjacency, pseudo_edges
from mmrec.models import MAGNET
from mmrec.nn.losses import bpr
from mmrec.nn.router import TILE
from mmrec.nn.schedules import Constant, EntropyTriggered, TooFewExperts
from mmrec.training.callbacks import EpochSeed

WORLD = partial(planted, users=60, items=40, interactions_per_user=6, missing=0.1, widths=8)


@pytest.fixture(scope="module")
def data():
    data = PlantedData(world=WORLD, batch_size=128, negatives=2)
    _ = data.corpus
    return data


@pytest.fixture(scope="module")
def corpus(data):
    return data.corpus


def made(corpus, schedule=None, **options):
    seed_everything(0, verbose=False)
    model = MAGNET(corpus, dim=8, **options)
    model.evaluation = Evaluation(cutoffs=(5,))
    model.route_by(schedule or Constant(coverage=1.0, confidence=0.3, temperature=0.7, top_k=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def everything(corpus):
    users = torch.arange(corpus.n_users).repeat_interleave(corpus.n_items)
    return users, torch.arange(corpus.n_items).repeat(corpus.n_users)


OPTIONS = [
    {},
    {"router": "item"},
    {"router": "nothing"},
    {"experts": "free"},
    {"views": "plain"},
    {"views": "augmented"},
    {"content": "graph", "user_content": "history"},
    {"content": "projected", "user_content": "propagated"},
    {"behaviour": False},
    {"behaviour": False, "user_content": "history"},
    {"experts": "one"},
    {"pseudo_edges": 0},
    {"pseudo_choice": "random"},
    {"content_layers": 0, "layers": 0},
    {"late_add": 0.0},
    {"precision": "bfloat16"},
    {"loss": "softmax"},
    {"loss": "softmax", "router": "nothing", "behaviour": False},
]
each_option = pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: ",".join(f"{k}={v}" for k, v in o.items()) or "default"
)


def schedule_of(options):
    """One that keeps no more experts than there are."""
    top_k = 1 if options.get("experts") == "one" else 2
    return Constant(coverage=1.0, top_k=top_k, temperature=0.7)


@each_option
def test_every_parameter_is_in_the_loss(corpus, options):  # as processes that share gradients need
    model = made(corpus, schedule_of(options), **options).train()
    user, item = everything(corpus)
    sum(model.losses(Triplets(user, item, item.flip(0).unsqueeze(1))).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@each_option
@torch.no_grad()
def test_a_ranking_is_the_gated_sum_of_expert_scores_pair_by_pair(corpus, options):
    model = made(corpus, schedule_of(options), **options)
    vectors = model.channels()
    expert_users, expert_items = model.mix(vectors.users), model.mix(vectors.items)
    made_up = model.mix.makes_up(vectors.present)
    if options.get("loss") == "softmax":  # experts score by cosine, whatever is absent
        expert_users, expert_items = (normalize(x, dim=-1) for x in (expert_users, expert_items))
        made_up = torch.ones_like(made_up)
    users, items = everything(corpus)
    gates = model.pair_gates(Queries(users), items).view(corpus.n_users, corpus.n_items, -1)
    expected = torch.zeros(corpus.n_users, corpus.n_items)
    for e in range(len(model.experts)):
        score = expert_users[e] @ expert_items[e].T * made_up[:, e]
        expected += gates[..., e] * score
    found = model.score(model.encode(), Queries(torch.arange(corpus.n_users)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_tiles_of_any_size_give_the_same_ranking(corpus, monkeypatch):
    model, queries = made(corpus), Queries(torch.arange(20))
    whole = model.score(model.encode(), queries)
    monkeypatch.setitem(TILE, "cpu", 20 * 7)
    torch.testing.assert_close(model.score(model.encode(), queries), whole)


@each_option
def test_training_and_ranking_score_a_pair_alike(corpus, options):
    model = made(corpus, schedule_of(options), **options)
    batch = Triplets(
        corpus.train.user, corpus.train.item, torch.randint(corpus.n_items, (len(corpus.train), 2))
    )
    whole = model.score(model.encode(), Queries(torch.arange(corpus.n_users)))
    positive = whole[batch.user, batch.positive]
    negative = whole[batch.user].gather(1, batch.negative)
    losses = model.losses(batch)
    if options.get("loss") == "softmax":
        item, own = batch.positive.unique(return_inverse=True)
        share = torch.bincount(corpus.train.item)[item] / len(corpus.train)
        chance = 1 - (1 - share) ** len(batch.user)
        logits = whole[batch.user][:, item] / 0.2 - chance.log()
        expected = {"softmax": cross_entropy(logits, own)}
    else:
        expected = {"bpr": bpr(positive, negative)}
    found = {name: losses[name] for name in expected}
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def dense_projection(modality, linear):
    """`W f + b` of features with mean zero and a mean squared norm of one; zero where absent."""
    there, features = modality.present, modality.features.double()
    centred = features - features[there].mean(0)
    scaled = centred / centred[there].square().sum(1).mean().sqrt()
    made = scaled @ linear.weight.double().T + linear.bias.double()
    return made * there.unsqueeze(1)


CHANNELS = [
    *product(("graph", "projected", "both"), ("sum",), (0.5,)),
    *product(("both",), ("history", "propagated"), (0.5,)),
    ("graph", "sum", 0.0),
    ("both", "history", 2.0),
]


@pytest.mark.parametrize(("content", "user_content", "late_add"), CHANNELS)
@torch.no_grad()
def test_the_channels_are_two_views_of_what_users_and_items_bring(
    corpus, content, user_content, late_add
):
    model = made(corpus, content=content, user_content=user_content, late_add=late_add)
    channels, table = model.channels, model.channels.node.weight.double()
    split = corpus.n_users
    views = [view.adjacency.to_dense().double() for view in channels.behaviour.views]

    def fused(x, layers, gate):
        powers = [
            sum(torch.linalg.matrix_power(a, n) @ x for n in range(layers + 1)) / (layers + 1)
            for a in views
        ]
        share = gate.double().sigmoid()
        return share * powers[0] + (1 - share) * powers[1]

    behaviour = fused(table, 2, channels.behaviour.gate)
    users, items = [behaviour[:split]], [behaviour[split:]]
    for m, modality in enumerate(corpus.modalities.values()):
        around = shown = torch.zeros_like(table[split:])
        if content != "projected":
            around = channels.neighbours[m].matrix.to_dense().double() @ table[split:]
        if content != "graph":
            shown = dense_projection(modality, channels.project.each[m].linear)
        brought = around + shown
        own = torch.zeros_like(table[:split]) if user_content == "history" else table[:split]
        signal = fused(torch.cat([own, brought]), 1, channels.contents[m].gate)
        of_users = {
            "sum": behaviour[:split] + signal[:split],
            "history": signal[:split],
            "propagated": behaviour[:split],
        }
        users.append(of_users[user_content])
        items.append((signal[split:] + late_add * brought) * modality.present.unsqueeze(1))
    found = channels()
    torch.testing.assert_close(found.users.double(), torch.stack(users), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.items.double(), torch.stack(items), atol=1e-5, rtol=1e-4)


def test_the_graphs_are_the_ones_that_the_settings_name(corpus):
    model = made(corpus, neighbours=4, pseudo_edges=3, pseudo_weight=0.7)
    plain, augmented = (view.adjacency.to_dense() for view in model.channels.behaviour.views)
    size = corpus.n_users, corpus.n_items
    torch.testing.assert_close(plain, normalized_adjacency(corpus.train, *size).to_dense())
    edges = pseudo_edges(corpus, per_user=3, neighbours=4, tail_only=True, choice="content")
    torch.testing.assert_close(augmented, augmented_adjacency(corpus, edges, 0.7).to_dense())
    for smooth, modality in zip(model.channels.neighbours, corpus.modalities.values(), strict=True):
        rows = normalize(modality.features) * modality.present.unsqueeze(1)
        alike = (rows @ rows.T).fill_diagonal_(-2)
        alike[:, ~modality.present] = -2
        kept = torch.zeros_like(alike).scatter(1, alike.topk(4).indices, alike.topk(4).values)
        kept = kept.clamp(min=0) * modality.present.unsqueeze(1)
        kept = torch.maximum(kept, kept.T)
        scale = kept.sum(1).clamp(min=1e-12).rsqrt() * (kept.sum(1) > 0)
        expected = scale.unsqueeze(1) * kept * scale
        torch.testing.assert_close(smooth.matrix.to_dense(), expected, atol=1e-5, rtol=1e-4)


def test_gates_begin_on_the_collaborative_side_and_logits_at_the_roles(corpus):
    model = MAGNET(corpus, dim=8, sharpness=3.0)
    for views in (model.channels.behaviour, *model.channels.contents):
        assert views.gate.item() == 2.0  # .88 of the collaborative graph
    weights = model.mix.weights()
    torch.testing.assert_close(model.router.weights(), 3.0 * (weights - weights.mean(0)))


@torch.no_grad()
def test_penalties_are_the_squares_of_a_batchs_rows(corpus):
    batch = Triplets(corpus.train.user, corpus.train.item, corpus.train.item.flip(0).unsqueeze(1))
    model = made(corpus, l2=0.3, content_l2=0.7, template=0.2)
    losses, size = model.losses(batch), len(batch.user)
    items = torch.cat([batch.positive, batch.negative.flatten()])
    rows = torch.cat([batch.user, corpus.n_users + items])
    expected = {
        "l2": 0.3 * model.channels.node.weight[rows].square().sum() / (2 * size),
        "content_l2": 0.7 * model.channels().projected[items].square().sum() / (2 * size),
        "template": 0.2 * model.mix.delta.square().mean(),
    }
    torch.testing.assert_close({name: losses[name] for name in expected}, expected)


@pytest.mark.parametrize("content_layers", [0, 1])
def test_items_that_a_batch_does_not_depend_on_need_no_projection(
    corpus, content_layers, monkeypatch
):
    batch = Triplets(corpus.train.user[:2], corpus.train.item[:2], torch.tensor([[3], [5]]))

    def step(few):
        monkeypatch.setattr("mmrec.nn.channels.FEW", few)
        model = made(corpus, content_layers=content_layers)
        losses = model.losses(batch)
        sum(losses.values()).backward()
        found = [(name, p.grad) for name, p in model.named_parameters()]
        grads = {name: grad.to_dense() for name, grad in found if grad is not None}
        rows = model.channels.rows(model.ranking_loss.index(batch))
        return losses, grads, model.channels._reached(rows)

    (all_losses, all_grads, everything), (losses, grads, few) = step(0), step(1)
    assert everything is None
    assert len(few) < corpus.n_items
    assert content_layers or len(few) == 4
    torch.testing.assert_close(losses, all_losses)
    torch.testing.assert_close(grads, all_grads)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_the_router_is_held_on_positives_by_the_weights_of_the_schedule(corpus, loss):
    model = made(corpus, route=1.0, loss=loss)
    batch = Triplets(corpus.train.user, corpus.train.item, corpus.train.item.unsqueeze(1))
    model.route_by(Constant(temperature=0.7, top_k=None))
    gates = model.pair_gates(Queries(corpus.train.user), corpus.train.item).double()
    log_e = torch.tensor(9.0).double().log()
    pair = -(gates * gates.log()).sum(1).mean() / log_e
    spread = (1 / 9 * (1 / 9 / gates.mean(0)).log()).sum()
    model.route_by(Constant(coverage=0.6, confidence=0.4, temperature=0.7, top_k=2))
    expected = 0.6 * spread + 0.4 * pair
    torch.testing.assert_close(
        model.losses(batch)["route"].double(), expected, atol=1e-5, rtol=1e-4
    )


def test_item_weights_are_those_of_its_users_and_sum_to_one(corpus):
    model = made(corpus)
    weights = model.item_weights()
    assert list(weights) == ["behaviour", "visual", "textual"]
    torch.testing.assert_close(sum(weights.values()), torch.ones(corpus.n_items))
    for name in ("visual", "textual"):
        assert not weights[name][~corpus.modalities[name].present].any()
    item = int(corpus.train.item[0])
    users = corpus.train.user[corpus.train.item == item]
    gates = model.pair_gates(Queries(users), torch.full_like(users, item)).mean(0)
    shares = model.mix.weights() * model.channels.present[item]  # [E, C]
    expected = gates @ (shares / shares.sum(1, keepdim=True))
    for value, name in zip(expected, weights, strict=True):
        torch.testing.assert_close(weights[name][item], value)


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_noise_reaches_gates_in_training_only(corpus, loss):
    model = made(corpus, Constant(noise=5.0, top_k=2), loss=loss)
    batch = Triplets(corpus.train.user, corpus.train.item, corpus.train.item.unsqueeze(1) * 0)
    first, second = (model.losses(batch)[loss] for _ in range(2))
    assert first != second
    queries = Queries(torch.arange(5))
    one, two = (model.score(model.encode(), queries) for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("options", "setting", "value"),
    [
        ({"roles": {"dominant": 2.0}}, "roles.dominant", 2.0),
        ({"pseudo_edges": -1}, "pseudo_edges", -1),
        ({"layers": -1}, "layers", -1),
        ({"content_layers": -1}, "content_layers", -1),
        ({"dim": 0}, "dim", 0),
        ({"neighbours": 0}, "neighbours", 0),
        ({"neighbours": 40}, "neighbours", 40),
        ({"late_add": math.nan}, "late_add", math.nan),
        ({"route": -1.0}, "route", -1.0),
        ({"pseudo_weight": math.inf}, "pseudo_weight", math.inf),
        ({"user_content": "history", "content_layers": 0}, "user_content", "history"),
        (
            {"behaviour": False, "user_content": "history", "content": "projected"},
            "behaviour",
            False,
        ),
    ],
)
def test_what_cannot_be_is_refused(corpus, options, setting, value):
    with pytest.raises(SettingError) as error:
        MAGNET(corpus, **options)
    assert (error.value.setting, repr(error.value.value)) == (f"model.{setting}", repr(value))


@pytest.mark.parametrize("edges", [{"views": "plain"}, {"pseudo_edges": 0}])
def test_too_many_neighbours_are_fine_where_nothing_reads_them(corpus, edges):
    model = MAGNET(corpus, neighbours=corpus.n_items, content="projected", **edges)
    assert model.score(model.encode(), Queries(torch.arange(3))).isfinite().all()


def test_content_is_needed(corpus):
    with pytest.raises(DataError) as error:
        MAGNET(replace(corpus, modalities={}))
    assert error.value.file == "planted"
    assert error.value.problem.startswith("model magnet needs item features")


def test_more_experts_than_there_are_cannot_be_kept(corpus):
    model = MAGNET(corpus, experts="one")
    with pytest.raises(TooFewExperts) as error:
        model.route_by(Constant(top_k=3))
    assert (error.value.setting, error.value.value) == ("router_schedule.top_k", 3)
    assert error.value.problem == "the model has 1 expert in total (one)"


@pytest.mark.parametrize("seed", [0, 1])
def test_one_expert_takes_the_mean_of_the_channels_and_is_held_to_it(corpus, seed):
    seed_everything(seed, verbose=False)
    model = MAGNET(corpus, experts="one")
    torch.testing.assert_close(model.mix.weights(), torch.full((1, 3), 1 / 3))
    torch.nn.init.ones_(model.mix.delta)
    assert model.mix.penalty() == 1


def test_free_experts_claim_no_roles(corpus):
    assert MAGNET(corpus, experts="free").experts == tuple(f"free/{n}" for n in range(1, 10))


def test_an_item_with_nothing_to_show_scores_nothing(corpus):
    bare = torch.arange(corpus.n_items) < 3
    without = {
        name: replace(
            m, features=m.features * ~bare[:, None], present=m.present & ~bare, digest=name
        )
        for name, m in corpus.modalities.items()
    }
    model = made(replace(corpus, modalities=without), behaviour=False)
    scores = model.score(model.encode(), Queries(torch.arange(5)))
    assert scores[:, bare].eq(0).all()


def test_pseudo_edges_without_weight_are_none(corpus):
    weightless = made(corpus, pseudo_weight=0.0)
    plain, augmented = (view.adjacency.to_dense() for view in weightless.channels.behaviour.views)
    assert torch.equal(plain, augmented)


def test_one_modality_leaves_five_experts():
    one = PlantedData(world=partial(WORLD, modalities=("visual",))).corpus
    assert MAGNET(one).experts == (
        "dominant/behaviour",
        "dominant/visual",
        "balanced/behaviour+visual",
        "complementary/behaviour",
        "complementary/visual",
    )


def featured(corpus, features):
    """The corpus with all its features `features(shape)`."""
    content = {
        name: replace(m, features=features(m.features.shape), digest=f"{features.__name__}-{name}")
        for name, m in corpus.modalities.items()
    }
    return replace(corpus, modalities=content)


def test_features_that_are_all_alike_still_rank(corpus):
    model = MAGNET(featured(corpus, torch.ones))
    assert model.score(model.encode(), Queries(torch.arange(3))).isfinite().all()


def test_features_that_are_all_zero_are_no_content(corpus):
    with pytest.raises(
        ValueError, match=r"k=10 neighbours are not possible: 0 of 40 items have content"
    ):
        MAGNET(featured(corpus, torch.zeros))


@pytest.fixture
def trained(quiet_trainer):
    """`trained(model, data, epochs)`: its trainer, afterwards."""

    def train(model, data, epochs, ckpt=None):
        trainer = quiet_trainer(max_epochs=epochs, callbacks=[EpochSeed(0)])
        trainer.fit(model, data, ckpt_path=ckpt, weights_only=True)
        return trainer

    return train


SCHEDULE = {"threshold": 0.0, "tolerance": 1.0, "window": 1, "earliest": 3, "ramp": 2}


def test_a_run_that_is_killed_and_continued_triggers_at_the_same_epoch(data, trained, tmp_path):
    def fresh():
        return made(data.corpus, EntropyTriggered(**SCHEDULE)).train()

    whole, first, second = fresh(), fresh(), fresh()
    expected = trained(whole, data, 6).callback_metrics
    trained(first, data, 3).save_checkpoint(tmp_path / "a.ckpt")
    found = trained(second, data, 6, tmp_path / "a.ckpt").callback_metrics
    assert whole.schedule.trigger == second.schedule.trigger == 3
    assert whole.schedule.state_dict() == second.schedule.state_dict()
    assert found["router/stage"] == 2
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)


def test_a_run_that_ends_in_its_first_stage_says_so(data, trained, caplog):
    with caplog.at_level(logging.INFO):
        trained(made(data.corpus, EntropyTriggered(**SCHEDULE)).train(), data, 2)
        said = "ended in stage 1; stage 2 waits for epoch 3 (router_schedule.earliest)"
        assert said in caplog.text
        caplog.clear()
        trained(made(data.corpus, EntropyTriggered(**SCHEDULE)).train(), data, 5)
    assert "router: stage 2 starts at epoch 3" in caplog.text
    assert "ended in stage 1" not in caplog.text


def test_training_tells_of_pseudo_edges_and_opening_a_run_does_not(data, trained, caplog):
    with caplog.at_level(logging.INFO):
        model = made(data.corpus)
        assert "pseudo-edges" not in caplog.text
        trained(model.train(), data, 1)
        assert caplog.text.count("pseudo-edges, ") == 1
        caplog.clear()
        trained(made(data.corpus, views="plain").train(), data, 1)
    assert "pseudo-edges" not in caplog.text


def test_each_epoch_tells_what_the_router_did(data, trained):
    model = made(data.corpus, Constant(coverage=1.0, top_k=2)).train()
    metrics = trained(model, data, 2).callback_metrics
    loads = [float(metrics[f"load/{name}"]) for name in model.experts]
    assert sum(loads) == pytest.approx(1)
    assert float(metrics["router/largest_load"]) == pytest.approx(max(loads))
    assert float(metrics["router/smallest_load"]) == pytest.approx(min(loads))
    assert float(metrics["router/dead"]) == pytest.approx(sum(x < 0.01 for x in loads) / 9)
    assert 0 < float(metrics["router/pair_entropy"]) <= float(metrics["router/gate_entropy"]) <= 1
    entropy = -sum(x * math.log(x) for x in loads if x > 0) / math.log(9)
    assert float(metrics["router/load_entropy"]) == pytest.approx(entropy, abs=1e-5)


def test_a_collapsed_router_is_warned_of_once_and_with_advice(data, trained, caplog):
    model = made(data.corpus, Constant(top_k=1)).train()
    torch.nn.init.zeros_(model.router.agree)
    for parameter in model.router.parameters():
        torch.nn.init.zeros_(parameter)
        parameter.requires_grad = False
    model.router.bias.data[4] = 50.0
    with caplog.at_level(logging.WARNING):
        trained(model, data, 7)
    said = [r.getMessage() for r in caplog.records if "router" in r.getMessage()]
    assert len(said) == 1
    assert "expert balanced/behaviour+textual has had more than 90 % of the load for 5" in said[0]
    assert "raise router_schedule.coverage" in said[0]


def test_weights_of_pairs_are_those_of_their_gates(corpus):
    model = made(corpus)
    users, items = corpus.train.user[:7], corpus.train.item[:7]
    gates, weights = (
        model.pair_gates(Queries(users), items),
        model.pair_weights(Queries(users), items),
    )
    for row in range(7):
        shares = model.mix.weights() * model.channels.present[items[row]]  # [E, C]
        expected = gates[row] @ (shares / shares.sum(1, keepdim=True))
        found = torch.stack([w[row] for w in weights.values()])
        torch.testing.assert_close(found, expected)


def test_gates_of_an_item_that_nobody_has_are_the_mean_of_all(corpus):
    train = corpus.train.select(corpus.train.item != 3)
    model = made(replace(corpus, train=train))
    expected = model.pair_gates(Queries(train.user), train.item).mean(0)
    torch.testing.assert_close(model.item_gates()[3], expected)
