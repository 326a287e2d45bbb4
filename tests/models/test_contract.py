"""What every model keeps, whichever paper it comes from.

Models are the files of conf/model: a new one is tested as soon as its YAML exists.
"""

from __future__ import annotations

import gc
import inspect
import re
import sys
from dataclasses import replace
from functools import partial
from types import FrameType, FunctionType, ModuleType
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from hydra.utils import get_object, instantiate
from lightning import Trainer, seed_everything
from omegaconf import OmegaConf

from mmrec.config.errors import SettingError
from mmrec.config.schema import check_call, conf_dir
from mmrec.data import Corpus, DataError, InteractionData, Sequences
from mmrec.data.corpus import together
from mmrec.data.loaders import queries_for
from mmrec.evaluation import Rankings
from mmrec.evaluation.protocol import Evaluation
from mmrec.models import WMF, Random, Recommender, RoutedRecommender
from mmrec.nn.schedules import Constant
from mmrec.training.upstream import TEACHER

CLASSES = {
    path.stem: get_object(OmegaConf.load(path)["_target_"])
    for path in sorted((conf_dir() / "model").glob("[!_]*.yaml"))
}
EPOCHS = 12
CUTOFF = 5
RATES = {"cammsr": 5e-3, "hm4sr": 5e-3}  # of models for which the usual one is too large
USUAL_RATE = 2e-2

every_model = pytest.mark.parametrize("name", CLASSES)
TRAINED = [name for name, kind in CLASSES.items() if not kind.closed_form]
WITH_LOSSES = [
    f"{name}/softmax"
    for name, kind in CLASSES.items()
    if "softmax" in get_args(get_type_hints(kind.__init__).get("loss"))
]
trained_models = pytest.mark.parametrize("name", TRAINED)
content_models = pytest.mark.parametrize(
    "name",
    [n for n, kind in CLASSES.items() if kind.encode_items is not Recommender.encode_items],
)
closed_forms = pytest.mark.parametrize(
    "name", [name for name, kind in CLASSES.items() if kind.closed_form]
)


@pytest.fixture(scope="module")
def setting(composed):
    """The plain `model` node of a model's configuration."""

    def build(name):
        config = OmegaConf.to_container(composed(f"model={name}"), resolve=True)
        return config["model"]

    return build


@pytest.fixture(scope="module")
def make(setting):
    """`make(name, corpus, seed=0)`: the model as it is configured, with a larger learning rate.

    `name/loss` has another loss.
    """

    def build(name, corpus, seed=0):
        seed_everything(seed, verbose=False)
        name, _, loss = name.partition("/")
        other = {"loss": loss} if loss else {}
        model = instantiate({**setting(name), **other}, _convert_="all")(corpus)
        model.optimizer = partial(torch.optim.Adam, lr=RATES.get(name, USUAL_RATE))
        model.evaluation = Evaluation(cutoffs=(CUTOFF,), seen="train")
        return model

    return build


@pytest.fixture(scope="module")
def board(checkerboard):
    return checkerboard()


@pytest.fixture(scope="module")
def learned(make, board):
    """`learned(name)`: the model after training, its trainer and its data; trained once."""
    known = {}

    def train(name):
        if name not in known:
            known[name] = fit(make(name, board), board)
        return known[name]

    return train


def fit(model, corpus, epochs=EPOCHS, negatives=1, precision="32-true"):
    batch_size = 8 if model.batch_type is Sequences else 128
    data = InteractionData(batch_size=batch_size, negatives=negatives)
    data.corpus = corpus
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        precision=precision,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    if model.closed_form:
        trainer.validate(model, data, verbose=False)
    else:
        trainer.fit(model, data)
    return model.eval(), trainer, data


@torch.no_grad()
def scores(model, users=None):
    users = torch.arange(model.corpus.n_users) if users is None else users
    queries = queries_for(model, model.corpus, users, len(users), "train")
    return model.eval().score(model.encode(), next(iter(queries)))


def everything(model, corpus):
    """A batch of the model's type with every train pair and, among its negatives, every item."""
    data = InteractionData()
    data.corpus = corpus
    dataset = data.dataset(model)
    batch = dataset.batch(torch.arange(len(dataset)), torch.Generator())
    if not hasattr(batch, "negative"):
        return batch
    count = len(batch.negative)
    return batch._replace(negative=(torch.arange(count) % model.corpus.n_items).unsqueeze(1))


def recall(model, corpus):
    """Of the validation items, the share among the first unseen ones; and what chance finds."""
    score = scores(model)
    score[corpus.train.user, corpus.train.item] = -torch.inf
    found = torch.zeros_like(score).scatter_(1, score.topk(CUTOFF).indices, 1)
    unseen = corpus.n_items - corpus.user_counts().float().mean()
    return found[corpus.val.user, corpus.val.item].mean(), CUTOFF / unseen


def judge(model, corpus):
    found, chance = recall(model, corpus)
    if type(model) is Random:
        assert found < 2 * chance
    else:
        assert found > 5 * chance


@every_model
def test_withheld_items_are_found_far_above_chance(name, learned, board):
    judge(learned(name)[0], board)


@every_model
def test_withheld_items_are_found_where_content_is_missing_and_negatives_are_many(
    name, make, checkerboard
):
    corpus = checkerboard(missing=8)
    model, *_ = fit(make(name, corpus), corpus, negatives=3)
    assert scores(model).isfinite().all()
    judge(model, corpus)


def with_cold_items(corpus, *, shift=0):
    """Nine items are cold; `shift` gives them to other users."""
    cold = torch.zeros(corpus.n_items, dtype=torch.int8)
    cold[torch.randperm(corpus.n_items, generator=torch.Generator().manual_seed(0))[:9]] = 1
    cold[cold.nonzero().squeeze(1)[:5]] = 2
    pairs = [corpus.train, corpus.val, corpus.test]
    rows = together(*pairs)
    user, item = rows.user, rows.item
    user = torch.where(cold[item] > 0, (user + shift) % corpus.n_users, user)
    rows = replace(rows, user=user)
    parts = [rows.select(cold[item] == n) for n in range(3)]
    held_out = dict(zip(("train", "val", "test"), parts, strict=True))
    train = held_out["train"]
    warm = torch.arange(len(train)) % 9 == 0  # a ninth is held out of train, for test
    held_out["train"] = train.select(~warm)
    some = train.select(warm)
    some = replace(some, user=(some.user + shift) % corpus.n_users)
    return replace(corpus, **held_out, cold=cold, warm=some, split="item_cold(given)")


@content_models
def test_a_new_item_is_encoded_as_a_cold_one(name, make, checkerboard):
    corpus = with_cold_items(checkerboard(missing=8))
    model, *_ = fit(make(name, corpus), corpus, epochs=2)
    nan = {
        n: m.features.masked_fill(~m.present.unsqueeze(1), torch.nan)
        for n, m in corpus.modalities.items()
    }
    cold = corpus.cold > 0
    zeros = {n: m.features for n, m in corpus.modalities.items()}
    there = {n: m.present for n, m in corpus.modalities.items()}
    expected = model.encode().items[cold].detach()
    for features, present in ((nan, None), (zeros, there)):
        torch.testing.assert_close(model.encode_items(features, present)[cold], expected)
    bare = {n: torch.full_like(x[:1], torch.nan) for n, x in nan.items()}
    assert model.encode_items(bare).isfinite().all()


@every_model
def test_what_is_held_out_reaches_no_score(name, make, board):
    """Cold items have no train interaction, and those of validation and test leave no trace."""
    corpus, other = (with_cold_items(board, shift=n) for n in (0, 7))
    found, others = (scores(fit(make(name, c), c, epochs=2)[0]) for c in (corpus, other))
    assert found.isfinite().all()
    assert torch.equal(found, others)
    ranking = Rankings(corpus, "test", Evaluation(cutoffs=(3,)))
    ranking.update(ranking.users, found[ranking.users])
    assert {n.partition("/")[0] for n in ranking.compute()} == {
        "test",
        "test_all",
        "test_cold",
        "test_warm",
    }


def reachable(start):
    """All objects that can be reached from one, but for classes, modules and global variables."""
    found, waiting = {id(start): start}, [start]
    while waiting:
        each = waiting.pop()
        if isinstance(each, FunctionType):
            referents = [each.__closure__, each.__defaults__, each.__kwdefaults__, each.__dict__]
        else:
            referents = gc.get_referents(each)
        for one in referents:
            if not isinstance(one, type | ModuleType | FrameType) and id(one) not in found:
                found[id(one)] = one
                waiting.append(one)
    return found.values()


def held_out_in(model, corpus):
    """What a model holds of the interactions of validation and test."""
    parts = [corpus.val, corpus.test, corpus.warm, corpus.removed]
    columns = [x for part in parts if part is not None for x in (part.user, part.item)]
    columns += [] if corpus.cold is None else [corpus.cold]
    storages = {x.untyped_storage().data_ptr() for x in columns}
    held_out = []
    for each in reachable(model):
        if isinstance(each, Corpus | InteractionData):
            held_out.append(each)
        elif isinstance(each, torch.Tensor) and each.layout is torch.strided:
            copied = any(torch.equal(each, part.item) for part in parts if part is not None)
            if copied or each.untyped_storage().data_ptr() in storages:
                held_out.append(each)
    return held_out


@every_model
def test_a_model_holds_no_interactions_of_validation_or_test(name, make, checkerboard):
    corpus = with_cold_items(checkerboard())
    corpus = replace(corpus, removed=corpus.val.select(torch.arange(5)))
    assert held_out_in(make(name, corpus), corpus) == []  # the whole corpus was given to it


@pytest.mark.parametrize(
    "leak",
    [
        lambda corpus: corpus,
        lambda corpus: {"some": [corpus.test]},
        lambda corpus: partial(print, corpus.val.item[3:]),
        lambda corpus: lambda: corpus.warm,
        lambda corpus: corpus.test.item.clone(),
        lambda corpus: corpus.cold.view(1, -1),
    ],
)
def test_a_model_that_keeps_them_would_be_found(leak, checkerboard):
    corpus = with_cold_items(checkerboard())
    model = Random(corpus)
    assert held_out_in(model, corpus) == []
    model.kept = leak(corpus)
    assert held_out_in(model, corpus)


@every_model
def test_the_trainer_reports_what_the_scores_say(name, learned, board):
    model, trainer, _ = learned(name)
    found, _ = recall(model, board)
    torch.testing.assert_close(
        trainer.callback_metrics[f"val/recall@{CUTOFF}"].float(), found, atol=1e-6, rtol=0
    )


@every_model
def test_one_seed_gives_one_set_of_numbers(name, make, board):
    models = (fit(make(name, board, seed=1), board, epochs=2)[0] for _ in range(2))
    first, second = map(scores, models)
    assert torch.equal(first, second)


@every_model
def test_only_what_is_trained_differs_with_the_seed(name, make, board):
    first, second = (make(name, board, seed=seed) for seed in (1, 2))
    assert first.closed_form == torch.equal(scores(first), scores(second))


@every_model
def test_saving_and_loading_changes_no_score(name, learned, make, board, tmp_path):
    model, trainer, data = learned(name)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    fresh = make(name, board, seed=9)
    path = tmp_path / "a.ckpt"
    Trainer(logger=False, accelerator="cpu", enable_progress_bar=False).validate(
        fresh, data, ckpt_path=path, weights_only=True, verbose=False
    )
    assert torch.equal(scores(fresh), scores(model))


@every_model
def test_a_checkpoint_of_other_data_is_refused(name, learned, make, board):
    checkpoint = {}
    learned(name)[0].on_save_checkpoint(checkpoint)
    other = make(name, replace(board, fingerprint="another"))
    with pytest.raises(DataError) as error:
        other.on_load_checkpoint(checkpoint)
    assert (error.value.file, error.value.column) == ("checkpoint", "fingerprint")
    assert error.value.found == board.fingerprint
    assert error.value.expected == "another as in this run"


@trained_models
def test_every_parameter_gets_a_gradient(name, make, board):
    model = make(name, board).train()
    sum(model.losses(everything(model, board)).values()).backward()
    idle = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@every_model
def test_modalities_may_be_called_anything(name, make, checkerboard):
    model = make(name, checkerboard(("clip.large", "1 x")))
    assert scores(model).isfinite().all()


@every_model
def test_a_device_holds_each_constant_once_and_processes_send_none(name, make, board):
    model = make(name, board)
    before = len({id(x) for x in model.buffers()})
    model.double().float()  # new tensors, as on the way to a device
    assert len({id(x) for x in model.buffers()}) == before
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.datamodule = InteractionData()
    trainer.datamodule.corpus = board
    model.trainer = trainer
    model.setup("fit")
    everywhere = {key for key, _ in model.named_buffers(remove_duplicate=False)}
    assert set(model._ddp_params_and_buffers_to_ignore) == everywhere


@pytest.mark.parametrize("name", [*TRAINED, *WITH_LOSSES])
def test_negatives_are_drawn_for_who_reads_them(name, make, board):
    model = make(name, board)
    batch = everything(model, board)
    if not hasattr(batch, "negative"):
        assert not model.reads_negatives
        return
    other = batch._replace(negative=batch.negative.flip(0).roll(1))
    terms = []
    for some in (batch, other):
        seed_everything(0, verbose=False)
        terms.append(torch.stack([*model.train().losses(some).values()]))
    assert model.reads_negatives is not torch.equal(*terms)
    _, _, data = fit(model, board, epochs=1, negatives=3)
    drawn = next(iter(data.train_dataloader())).negative
    assert drawn.shape[1] == (3 if model.reads_negatives else 0)


@every_model
def test_other_content_gives_other_scores_where_a_model_says_that_it_reads_it(name, make, board):
    cold = replace(board, train=board.train.select(board.train.item > 8))
    other = {
        key: replace(each, features=each.features.roll(1, 0), digest=each.digest[::-1])
        for key, each in board.modalities.items()
    }
    before, after = (make(name, c) for c in (cold, replace(cold, modalities=other)))
    changed = not torch.equal(scores(before), scores(after))
    assert before.reads_content is changed


@closed_forms
def test_a_closed_form_has_nothing_to_train(name, make, board):
    model = make(name, board)
    assert not list(model.parameters())
    with pytest.raises(TypeError, match=f"{type(model).__name__} .* cannot be trained"):
        model.losses(everything(model, board))


@trained_models
def test_a_negative_drawn_three_times_costs_as_much_as_once(name, make, board):
    model = make(name, board).eval()
    batch = everything(model, board)
    if not hasattr(batch, "negative"):
        return
    thrice = batch._replace(negative=batch.negative.expand(-1, 3))
    once, often = model.losses(batch), model.losses(thrice)
    assert once.keys() == often.keys()
    assert all(term.shape == () and term.isfinite() for term in often.values())
    for term in once.keys() & {"bpr"}:
        torch.testing.assert_close(once[term], often[term])


@pytest.mark.parametrize("name", WITH_LOSSES)
def test_a_softmax_over_the_batch_learns_too(name, make, board):
    model = make(name, board)
    sum(model.train().losses(everything(model, board)).values()).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    fit(model, board)
    judge(model, board)


@trained_models
def test_the_shortest_floats_have_finite_gradients(name, make, checkerboard):
    board = checkerboard(missing=8)
    model = make(name, board).train()
    if isinstance(model, RoutedRecommender):  # all that a router can be asked for
        model.route_by(Constant(coverage=1.0, confidence=0.1, noise=0.5, top_k=2))
    with torch.autocast("cpu", dtype=torch.float16):
        total = sum(model.losses(everything(model, board)).values())
    total.backward()
    bad = [key for key, p in model.named_parameters() if not p.grad.isfinite().all()]
    assert bad == []


@pytest.mark.parametrize("name", [*TRAINED, *WITH_LOSSES])
def test_half_precision_trains(name, make, board):
    model, trainer, _ = fit(make(name, board), board, epochs=2, precision="bf16-mixed")
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert scores(model).isfinite().all()


@every_model
def test_a_score_does_not_depend_on_who_else_is_asked_for(name, learned):
    model, *_ = learned(name)
    users = torch.tensor([5, 0, 101, 3])
    together = scores(model, users)
    assert together.shape == (4, model.corpus.n_items)
    alone = torch.cat([scores(model, user) for user in users.split(1)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@every_model
def test_renaming_items_renames_their_scores(name, learned, make, board):
    model, *_ = learned(name)
    order = torch.randperm(board.n_items, generator=torch.Generator().manual_seed(3))
    twin = make(name, renamed(board, order))
    if not model.closed_form or type(model) is WMF:  # which starts from items drawn by index
        nodes = torch.cat([torch.arange(board.n_users), board.n_users + order])
        rows = {len(order): order, len(nodes): nodes}  # of a table of items, or of users and items
        state = model.state_dict()
        twin.load_state_dict(
            {k: v[rows[len(v)]] if v.dim() and len(v) in rows else v for k, v in state.items()}
        )
    if isinstance(model, RoutedRecommender):
        twin.schedule.load_state_dict(model.schedule.state_dict())
    same = torch.allclose(scores(twin), scores(model)[:, order], atol=1e-4, rtol=1e-4)
    assert same != (type(model) is Random)  # whose order is drawn by index


def renamed(corpus, order):
    """The corpus whose item i is the given one's item order[i]."""
    place = order.argsort()

    def part(pairs):
        return replace(pairs, item=place[pairs.item])

    content = {
        kind: replace(
            m, features=m.features[order], present=m.present[order], digest=m.digest + "'"
        )
        for kind, m in corpus.modalities.items()
    }
    train, val, test = part(corpus.train), part(corpus.val), part(corpus.test)
    labels = corpus.categories._replace(item=place[corpus.categories.item])
    return replace(corpus, train=train, val=val, test=test, modalities=content, categories=labels)


@every_model
def test_item_weights_are_one_number_per_item_and_channel(name, learned, board):
    weights = learned(name)[0].item_weights()
    for channel, values in weights.items():
        assert isinstance(channel, str)
        assert values.shape == (board.n_items,)
        assert values.isfinite().all()
        assert not values.requires_grad


@every_model
def test_a_misspelt_setting_is_refused(name, setting, board):
    config = setting(name)
    wrong = {**config, "dimm": 8}
    with pytest.raises(TypeError, match="dimm"):
        CLASSES[name](board, dimm=8)
    with pytest.raises(SettingError) as error:
        check_call(wrong, "model")
    assert error.value.setting == "model.dimm"


@every_model
def test_no_number_may_be_negative_but_a_seed(name, setting, board):
    config = setting(name)
    for key, value in config.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key != "seed":
            with pytest.raises(SettingError) as caught:
                instantiate({**config, key: -1}, _convert_="all")(board)
            assert (caught.value.setting, caught.value.value) == (f"model.{key}", -1)


@every_model
def test_a_choice_that_there_is_not_is_refused(name, setting, board):
    config = setting(name)
    for key, kind in get_type_hints(CLASSES[name].__init__).items():
        if get_origin(kind) is Literal:
            with pytest.raises(SettingError) as caught:
                instantiate({**config, key: "unknown"}, _convert_="all")(board)
            assert (caught.value.setting, caught.value.value) == (f"model.{key}", "unknown")
            assert all(choice in caught.value.expected for choice in get_args(kind))


@every_model
def test_a_misspelt_setting_is_answered_with_the_nearest(name, setting):
    config = setting(name)
    for key in [key for key in config if not key.startswith("_")]:
        with pytest.raises(SettingError) as error:
            check_call({**config, f"{key}x": config[key]}, "model")
        assert error.value.setting == f"model.{key}x"
        assert "did you mean" in error.value.problem
        assert re.search(rf"\b{key}\b", error.value.problem)


@every_model
def test_settings_are_keywords_with_types_and_all_are_in_the_yaml(name, setting):
    config = setting(name)
    _, *parameters = inspect.signature(CLASSES[name]).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY and p.annotation is not p.empty for p in parameters)
    names = {p.name for p in parameters} - {TEACHER}  # which another run gives
    assert names == {key for key in config if not key.startswith("_")}


@every_model
def test_names_agree_and_the_docstring_says_where_the_model_comes_from(name):
    target = CLASSES[name]
    assert target.__module__ == f"mmrec.models.{name}"
    assert target.__name__.lower() == name.replace("_", "")
    doc = sys.modules[target.__module__].__doc__
    assert re.search(r"https?://\S+|[Nn]o paper|without a paper", doc)
