"""The pages about gates and routers: their numbers, their files, and what they refuse."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import polars as pl
import pytest
import torch
from hydra.errors import InstantiationException

from mmrec.commands.explain import explain, main
from mmrec.commands.run import run
from mmrec.config.errors import SettingError
from mmrec.data import Queries
from mmrec.report import charts, gate_charts
from mmrec.training.open_run import open_run
from mmrec.training.results import ResultError

TINY = (
    *("trainer=cpu", "trainer.max_epochs=3", "trainer.enable_progress_bar=false", "model.dim=8"),
    *(
        "data.world.users=80",
        "data.world.items=70",
        "data.world.widths=4",
        "data.world.categories=4",
    ),
)
COLD = ("data=planted_cold", "evaluation.cutoffs=[10]")
ROUTED = ("router_schedule.window=1", "router_schedule.tolerance=1", "router_schedule.threshold=0")


@pytest.fixture(scope="module")
def finished(composed, tmp_path_factory):
    """`finished(model, *words)` is the folder of its run."""
    root, folders = tmp_path_factory.mktemp("runs"), {}

    def build(model, *words):
        if (model, words) not in folders:
            folder = root / f"{model}{len(folders)}"
            run(composed(f"model={model}", *TINY, *words, f"run_dir={folder}"), [])
            folders[model, words] = folder
        return folders[model, words]

    return build


def routed(finished):
    return finished("magnet", *ROUTED, "router_schedule.earliest=2")


def table(page, name):
    return pl.read_csv(page.parent / "tables" / f"{name}.csv")


def test_a_page_of_a_router_has_its_loads_with_the_trigger_weights_and_lists(finished, tmp_path):
    page = explain(run=routed(finished), output=str(tmp_path / "out"), accelerator="cpu")
    text = page.read_text()
    assert "The second stage began at epoch 2." in text
    for title in ("Router", "Channels", "Known roles", "Recommendations"):
        assert f">{title}</h2>" in text
    assert not re.search(r'(src|href)="(?!#)', text)  # nothing from elsewhere
    figures = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    stems = ["router-load", "router-entropy", "channels-popularity", "channels-activity"]
    for stem in (*stems, "channels-category"):
        assert {f"{stem}.png", f"{stem}.svg"} <= figures
    svg = (tmp_path / "out" / "figures" / "router-load.svg").read_text()
    assert "dominant/visual" in svg
    assert "second stage" in svg


def test_lists_are_at_most_as_long_as_the_catalogue(finished, tmp_path):
    words = {"users": [7], "seen": "none", "accelerator": "cpu"}
    page = explain(run=routed(finished), k=10**30, output=str(tmp_path / "long"), **words)
    exact = explain(run=routed(finished), k=70, output=str(tmp_path / "exact"), **words)
    assert len(table(page, "user-7")) == 70
    assert table(page, "user-7").equals(table(exact, "user-7"))


def test_weights_by_group_are_the_means_over_train_pairs(finished, tmp_path):
    folder = routed(finished)
    page = explain(run=folder, output=str(tmp_path), accelerator="cpu")
    opened = open_run(folder)
    corpus, model = opened.corpus, opened.model
    weights = model.pair_weights(Queries(corpus.train.user), corpus.train.item)
    order = corpus.item_counts().argsort(descending=True, stable=True)
    head = torch.isin(corpus.train.item, order[: round(0.2 * corpus.n_items)])
    shown = table(page, "weights-by-popularity").row(0, named=True)
    assert shown["group"] == "head"
    assert int(str(shown["pairs"]).replace(",", "")) == int(head.sum())
    for name, values in weights.items():
        assert shown[name] == pytest.approx(float(values[head].mean()), abs=1e-4)
    by_category = table(page, "weights-by-category")
    assert len(by_category) == 4
    one = by_category.row(1, named=True)
    bears = {
        int(i)
        for i, c in zip(corpus.categories.item, corpus.categories.category, strict=True)
        if corpus.categories.names[int(c)] == one["group"]
    }
    of_it = torch.tensor([int(i) in bears for i in corpus.train.item])
    for name, values in weights.items():
        assert one[name] == pytest.approx(float(values[of_it].mean()), abs=1e-4)


def test_lists_are_those_of_recommend_with_what_carried_each_item(finished, tmp_path):
    folder = routed(finished)
    page = explain(run=folder, users=[7, "3", 7], k=4, output=str(tmp_path), accelerator="cpu")
    assert {p.stem for p in (tmp_path / "tables").glob("user-*.csv")} == {
        *("user-7", "user-3", "user-7-train", "user-3-train")
    }
    shown = table(page, "user-7")
    opened = open_run(folder)
    scores = opened.model.score(opened.model.encode(), Queries(torch.tensor([7])))[0]
    for part in (opened.corpus.train, opened.corpus.val):
        scores[part.item[part.user == 7]] = -torch.inf
    assert shown["item"].to_list() == scores.topk(4).indices.tolist()
    gates = opened.pair_gates(torch.tensor([7]), torch.tensor([shown["item"][0]]))[0]
    best = opened.model.experts[int(gates.argmax())]
    assert shown["experts"][0].startswith(f"{best} {float(gates.max()):.2f}")
    truth = opened.data.truth
    expected = [truth.role_names[truth.role[item]] for item in shown["item"]]
    assert shown["true role"].to_list() == expected
    channels = shown.select("behaviour", "visual", "textual").sum_horizontal()
    assert channels.to_list() == pytest.approx([1.0] * 4, abs=2e-3)
    had, train = table(page, "user-7-train"), opened.corpus.train
    latest = train.item[train.user == 7].flip(0)[:10]
    assert had["item"].to_list() == latest.tolist()
    weights = opened.pair_weights(torch.full_like(latest, 7), latest)
    assert had["visual"].to_list() == pytest.approx(weights["visual"].tolist(), abs=1e-3)


def test_items_have_their_ids_and_titles(finished, tmp_path, monkeypatch):
    opened = open_run(routed(finished))
    count = opened.corpus.n_items
    titles = pl.Series("title", [f"{'long' * 20} {i}" if i % 2 else f"|{i}|" for i in range(count)])
    ids = pl.Series([f"B{i}" for i in range(count)])
    known = replace(opened.corpus, item_titles=titles, item_ids=ids)
    monkeypatch.setattr(type(opened), "corpus", known)
    monkeypatch.setattr("mmrec.training.open_run.open_run", lambda *_, **__: opened)
    page = explain(run=opened.folder, users=[7], output=str(tmp_path), accelerator="cpu")
    for name in ("user-7", "user-7-train"):
        shown = table(page, name)
        assert shown["item_id"].to_list() == [f"B{i}" for i in shown["item"]]
        assert shown["title"].to_list() == [
            f"{'long' * 15}…" if i % 2 else f"|{i}|" for i in shown["item"]
        ]


def test_a_gated_model_has_no_router_and_the_rest(finished, tmp_path):
    page = explain(run=finished("gated_lightgcn"), output=str(tmp_path), accelerator="cpu")
    text = page.read_text()
    assert ">Router</h2>" not in text
    assert ">Channels</h2>" in text
    assert "experts" not in table(page, next(tmp_path.glob("tables/user-*.csv")).stem).columns


def test_a_model_of_sequences_has_weights_by_user_and_along_sequences(finished, tmp_path):
    words = ("data.split=leave_one_out", "model.inner=8", "data.batch_size=32")
    folder = finished("hm4sr", *words)
    page = explain(run=folder, users=[7, 3], output=str(tmp_path), accelerator="cpu")
    for title in ("Channels", "Sequences", "Recommendations"):
        assert f">{title}</h2>" in page.read_text()
    opened = open_run(folder)
    corpus, names = opened.corpus, list(opened.model.names)
    by_category = table(page, "weights-by-category")
    assert by_category.select(names).sum_horizontal().to_list() == pytest.approx([1.0] * 4)
    users = pl.read_csv(page.parent / "weights-of-users.csv")
    assert users["items"].to_list() == corpus.user_counts().tolist()
    assert table(page, "weights-by-user")["user"].to_list() == [7, 3]
    along = table(page, "user-7-sequence")
    parts = (corpus.train, corpus.val)
    assert along["item"].to_list() == [
        item for part in parts for item in part.item[part.user == 7].tolist()
    ]
    assert not {*names} & {*table(page, "user-7").columns}  # no weights of pairs


def test_the_page_stands_in_the_run_by_default_and_is_written_by_the_command(finished, in_process):
    folder = finished("gated_lightgcn")
    assert in_process(main, f"run={folder}", "k=3", "accelerator=cpu") is None
    assert (folder / "explain" / "index.html").is_file()


def test_cold_items_and_experts_have_means_over_items(finished, tmp_path):
    folder = finished("mamex", *COLD)
    page = explain(run=folder, output=str(tmp_path / "out"), accelerator="cpu")
    assert ">Items</h2>" in page.read_text()
    opened = open_run(folder)
    model, corpus = opened.model, opened.corpus
    cold = corpus.cold > 0
    found = table(page, "warm-and-cold")
    assert found["group"].to_list() == ["warm", "cold"]
    assert found["items"].to_list() == [int((~cold).sum()), int(cold.sum())]
    for name, weight in model.item_weights().items():
        expected = [float(weight[~cold].mean()), float(weight[cold].mean())]
        assert found[name].to_list() == pytest.approx(expected, abs=1e-4)
    gates, (item, category, names) = model.item_gates(), corpus.categories
    by_expert, by_channel = table(page, "experts-by-category"), table(page, "cold-by-category")
    for row, name in enumerate(by_expert["group"]):
        those = item[category == names.index(name)]
        shown = by_expert.select(model.experts).row(row)
        assert shown == pytest.approx(gates[those].mean(0).tolist(), abs=1e-4)
        some = those[cold[those]]
        if len(some):
            expected = float(model.item_weights()["visual"][some].mean())
            assert by_channel["visual"][row] == pytest.approx(expected, abs=1e-4)


def test_mixtures_without_weights_of_modalities_are_told_by_their_experts(finished, tmp_path):
    page = explain(
        run=finished("mamex", *COLD, "model.fusion=concat"), output=str(tmp_path / "out")
    )
    assert ">Router</h2>" in page.read_text()
    assert ">Channels</h2>" not in page.read_text()
    tables = {path.stem for path in (page.parent / "tables").glob("*.csv")}
    assert "experts-by-category" in tables
    assert "warm-and-cold" not in tables


def test_gates_of_pairs_tell_nothing_of_items_that_are_in_none(finished, tmp_path):
    folder = finished("magnet", *COLD, *ROUTED)
    page = explain(run=folder, output=str(tmp_path / "out"), accelerator="cpu")
    tables = {path.stem for path in (page.parent / "tables").glob("*.csv")}
    assert "experts-by-category" in tables
    assert not {"warm-and-cold", "cold-by-category"} & tables


def test_recovery_is_in_the_result_of_planted_data(finished):
    result = json.loads((routed(finished) / "result.json").read_text())
    assert {"auc", "auc/visual", "auc/textual", "nmi", "chance/auc", "chance/nmi"} <= set(
        result["recovery"]
    )
    cold = finished("mamex", *COLD)
    found = json.loads((cold / "result.json").read_text())["recovery"]
    assert {"auc", "cold/auc", "cold/nmi/expert", "chance/auc", "chance/cold/auc"} <= set(found)
    assert found["cold/auc"] != found["auc"]


def test_planted_sequences_have_recovery_and_weights_by_role(finished, tmp_path):
    folder = finished("cammsr", "data=planted_sequential", "model.inner=8")
    result = json.loads((folder / "result.json").read_text())
    assert {"auc", "auc/visual", "auc/textual", "chance/auc"} <= set(result["recovery"])
    card = result["data_card"]
    assert (card["name"], card["split"]) == ("planted_sequential", "leave_one_out")
    page = explain(run=folder, users=[7], k=3, output=str(tmp_path), accelerator="cpu")
    assert ">Known roles</h2>" in page.read_text()
    shown = table(page, "weights-by-role")
    assert shown["group"].to_list() == ["dominant/visual", "dominant/textual"]
    opened = open_run(folder)
    role = opened.data.truth.role[opened.corpus.train.item]
    pairs = [int(str(count).replace(",", "")) for count in shown["pairs"]]
    assert pairs == torch.bincount(role).tolist()
    assert shown["visual"][0] != shown["visual"][1]
    assert "true role" in table(page, "user-7").columns


@pytest.mark.parametrize(
    ("name", "given", "value"), [("k", 0, 0), ("users", [], []), ("users", [80], "80")]
)
def test_what_cannot_be_asked_is_refused(finished, tmp_path, name, given, value):
    with pytest.raises(SettingError) as error:
        explain(
            run=finished("gated_lightgcn"),
            output=str(tmp_path / "no"),
            **({"k": 3} | {name: given}),
        )
    assert (error.value.setting, error.value.value) == (name, value)
    assert not (tmp_path / "no").exists()


def test_a_page_needs_a_folder(finished, tmp_path):
    (tmp_path / "page").write_text("")
    with pytest.raises(SettingError) as error:
        explain(run=finished("gated_lightgcn"), output=str(tmp_path / "page"))
    assert (error.value.setting, error.value.problem) == ("output", "it is a file")


def test_a_user_who_is_named_twice_has_one_list(finished, tmp_path):
    folder, output = finished("gated_lightgcn"), str(tmp_path / "out")
    page = explain(run=folder, users=[7, "7"], k=3, output=output, accelerator="cpu")
    assert table(page, "user-7").height == 3


def test_the_last_checkpoint_has_a_page_of_its_own(finished):
    folder = finished("gated_lightgcn")
    page = explain(run=folder / "checkpoints" / "last.ckpt", users=[7], accelerator="cpu")
    assert page == folder / "explain-last" / "index.html"


def test_items_without_content_do_not_count_in_means(finished, tmp_path):
    folder = finished("mamex", *COLD, "data.world.missing=0.4")
    opened = open_run(folder)
    weights, cold = opened.model.item_weights(), opened.corpus.cold > 0
    there = torch.stack(list(weights.values()), 1).any(1)
    assert 0 < there.sum() < len(there)
    found = table(explain(run=folder, output=str(tmp_path), accelerator="cpu"), "warm-and-cold")
    assert found["items"].to_list() == [int((there & ~cold).sum()), int((there & cold).sum())]
    assert found.select(*weights).sum_horizontal().to_list() == pytest.approx([1, 1])


def test_each_expert_has_its_items_and_each_item_its_experts(finished, tmp_path):
    folder = routed(finished)
    page = explain(run=folder, output=str(tmp_path), accelerator="cpu")
    opened = open_run(folder)
    model, truth = opened.model, opened.data.truth
    gates, have = model.item_gates(), opened.corpus.item_counts()
    every = pl.read_csv(page.parent / "weights.csv")
    assert every["item"].to_list() == list(range(opened.corpus.n_items))
    assert every["train users"].to_list() == have.tolist()
    assert every.select(model.experts).to_numpy() == pytest.approx(gates.numpy(), abs=1e-6)
    most = table(page, "items-of-experts")
    for e, name in enumerate(model.experts):
        rows = most.filter(pl.col("expert") == name)
        best = gates[have >= 5, e].sort(descending=True).values[:5]
        assert rows["gate"].to_list() == pytest.approx(best.tolist(), abs=1e-3)
        assert gates[rows["item"].to_list(), e].tolist() == pytest.approx(best.tolist())
        assert rows["true role"].to_list() == [
            truth.role_names[truth.role[item]] for item in rows["item"]
        ]
    roles = table(page, "experts-by-role")
    assert roles["group"].to_list() == list(truth.role_names)
    assert roles["items"].sum() == opened.corpus.n_items


def test_users_without_train_items_have_a_list_alone(finished, tmp_path, monkeypatch):
    opened = open_run(routed(finished))
    train = opened.corpus.train
    without = replace(opened.corpus, train=train.select((train.user != 7).nonzero().squeeze(1)))
    monkeypatch.setattr(type(opened), "corpus", without)
    monkeypatch.setattr("mmrec.training.open_run.open_run", lambda *_, **__: opened)
    explain(run=opened.folder, users=[7], output=str(tmp_path), accelerator="cpu")
    assert {path.name for path in tmp_path.glob("tables/user-*.csv")} == {"user-7.csv"}


def test_a_modality_may_be_called_as_a_column(finished, tmp_path):
    folder = finished("mamex", *COLD, "data.world.modalities=[title,score]")
    page = explain(run=folder, users=[7], output=str(tmp_path), accelerator="cpu")
    opened = open_run(folder)
    every = pl.read_csv(page.parent / "weights.csv")
    weights = opened.model.item_weights()
    assert every["title"].to_list() == pytest.approx(weights["title"].tolist(), abs=1e-6)
    shown = table(page, "user-7")
    assert shown["weight of score"].to_list() == pytest.approx(
        weights["score"][shown["item"].to_list()].tolist(), abs=1e-3
    )


def test_a_channel_and_its_experts_have_one_colour():
    channels = ["behaviour", "visual"]
    names = ["dominant/visual", "balanced/behaviour+visual", "complementary/visual", "visual/2"]
    blue, orange = charts.COLOURS[:2]
    assert gate_charts.looks(channels, channels) == [(blue, 0), (orange, 0)]
    assert gate_charts.looks(names, channels) == [(orange, 0), (blue, 0), (orange, 1), (orange, 2)]
    assert gate_charts.looks(["a/1", "a/2"], []) == [(blue, 0), (orange, 0)]
    many = gate_charts.looks([f"visual/{n}" for n in range(8)], channels)
    assert len({(colour, gate_charts.HATCHES[again]) for colour, again in many}) == 8


def test_a_category_may_cost_dollars():
    prices = ["$5 & Under $10", "100% $a #1 $"]
    with charts.style():
        figure = gate_charts.stacked(torch.ones(2, 1), ["a"], [], prices, "By $")
        assert b"$5 &amp; Under $10" in charts.rendered(figure)["svg"]


def test_a_model_without_weights_is_told_apart(finished, tmp_path):
    with pytest.raises(SettingError) as error:
        explain(run=finished("lightgcn"), output=str(tmp_path / "no"))
    assert (error.value.setting, error.value.value) == ("run", finished("lightgcn"))
    assert error.value.problem == "LightGCN has no gate, attention or router"


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        (("model=lightgcn", "router_schedule=linear"), "router_schedule"),
        (("model=magnet", "router_schedule.top_k=10"), "router_schedule.top_k"),
        (("model=magnet", "router_schedule.threshold=-1"), "router_schedule.threshold"),
        (("model=magnet", "model.router=pairs"), "model.router"),
        (("model=magnet", "model.roles.dominant=3"), "model.roles.dominant"),
    ],
)
def test_a_schedule_or_router_that_cannot_be_is_refused(composed, tmp_path, words, setting):
    with pytest.raises((SettingError, InstantiationException)) as raised:
        run(composed(*words, *TINY, f"run_dir={tmp_path / 'no'}"), [])
    error = raised.value.__cause__ if raised.type is InstantiationException else raised.value
    assert error.setting == setting
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("link", ["explain", "explain/tables", "explain/index.html"])
def test_a_link_that_leads_out_of_the_run_folder_is_not_followed(finished, tmp_path, link):
    run_folder = shutil.copytree(routed(finished), tmp_path / "run")
    shutil.rmtree(run_folder / "explain", ignore_errors=True)
    (tmp_path / "victim").mkdir()
    path = run_folder / link
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(tmp_path / "victim")
    with pytest.raises(ResultError, match="leads out of the run folder") as refused:
        explain(run=run_folder, users=[7], accelerator="cpu")
    assert str(path) in str(refused.value)
    assert "output=" in str(refused.value)
    assert not list((tmp_path / "victim").iterdir())


def test_a_title_is_not_a_formula_in_a_spreadsheet(finished, tmp_path, monkeypatch):
    opened = open_run(routed(finished))
    titles = pl.Series(["=cmd|' /C calc'!A0"] * opened.corpus.n_items)
    opened.data.corpus = replace(opened.corpus, item_titles=titles)
    monkeypatch.setattr("mmrec.training.open_run.open_run", lambda *_, **__: opened)
    page = explain(run=opened.folder, users=[7], output=str(tmp_path), accelerator="cpu")
    for path in (tmp_path / "weights.csv", tmp_path / "tables" / "user-7.csv"):
        assert set(pl.read_csv(path)["title"]) == {"'=cmd|' /C calc'!A0"}
    assert '<td class="text">=cmd|&#x27; /C calc&#x27;!A0</td>' in page.read_text()
