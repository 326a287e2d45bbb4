"""The command writes tables, figures and a page of its own, and says what it cannot do."""

from __future__ import annotations

import logging
import re
import sqlite3
import xml.etree.ElementTree as ET

import optuna
import polars as pl
import pytest
from matplotlib import pyplot
from optuna.trial import TrialState

from mmrec.commands.report import main, report
from mmrec.search.storage import open_storage
from mmrec.search.study import IDENTITY, RETRIED


@pytest.fixture
def command(in_process):
    """`command(*words)` gives the one line of a command that ended badly."""
    return lambda *words: in_process(main, *words)


@pytest.fixture
def _outputs(write_run):
    for seed in (0, 1):
        write_run(f"bpr{seed}", seed=seed)
        write_run(
            f"gated_lightgcn{seed}", model="gated_lightgcn", seed=seed, gain=0.3, seconds=20.0
        )
        write_run(
            f"gated_lightgcn_sum{seed}", model="gated_lightgcn", seed=seed, gain=0.2, ablation="sum"
        )
    write_run("pop", model="most_pop", epochs=0)
    write_run("failed", status="failed", l2=0.2)


SLUG = "tiny-official-seen-train-aaaaaaaa"


@pytest.mark.usefixtures("_outputs")
def test_it_writes_everything_from_the_command_line(command, tmp_path):
    assert command("runs='outputs/**'", "output=out", "metrics=[recall@20,ndcg@20]") is None
    names = {path.name for path in (tmp_path / "out/tables").iterdir()}
    for table in ("results", "significance", "groups", "costs", "gated_lightgcn-ablations"):
        assert {f"{SLUG}-{table}.{suffix}" for suffix in ("md", "tex", "csv")} <= names
    drawn = {path.name for path in (tmp_path / "out/figures").iterdir()}
    for figure in (
        "curves",
        "popularity",
        "activity",
        "time",
        "memory",
        "gated_lightgcn-ablations-ablations",
    ):
        assert {f"{SLUG}-{figure}.{suffix}" for suffix in ("png", "svg")} <= drawn
    for path in (tmp_path / "out/figures").glob("*.svg"):
        ET.parse(path)
        assert "mathdefault" not in path.read_text()  # as powers of ten are at a log axis
    table = pl.read_csv(tmp_path / f"out/tables/{SLUG}-results.csv")
    assert table["model"].to_list() == ["gated_lightgcn", "bpr †", "most_pop †"]
    assert table["seeds"].to_list() == [2, 2, 1]
    gap = table["recall@20"][0] - table["recall@20"][1]
    assert gap == pytest.approx(0.15)


@pytest.mark.usefixtures("_outputs")
def test_the_page_needs_no_other_file(tmp_path):
    path = report(runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["ndcg@20"])
    page = path.read_text()
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert "@import" not in page
    assert page.count("<svg") == 6
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert "currentColor" in page
    assert "#222222" not in page
    assert "failed: the loss is not finite" in page
    assert "Completed runs: 7; models: 3; protocols: 1; folders left out: 1." in page


def test_each_value_of_a_setting_can_have_a_line(write_run, command, tmp_path):
    for loss, gain in (("bpr", 0.1), ("softmax", 0.2)):
        write_run(f"{loss}0", model="gated_lightgcn", loss=loss, gain=gain)
        write_run(f"{loss}1", model="gated_lightgcn", loss=loss, gain=gain / 2, l2=0.2)
        write_run(f"sum_{loss}", model="gated_lightgcn", loss=loss, ablation="sum")
    write_run("pop", model="most_pop", epochs=0)
    words = ("runs=outputs", "metrics=[recall@20]", "resamples=100")
    assert command(*words, "output=out", "by=[model.loss]") is None
    tables = tmp_path / "out/tables"
    table = pl.read_csv(tables / f"{SLUG}-results.csv")
    assert table["model"].to_list() == [
        "gated_lightgcn, loss=softmax",
        *("gated_lightgcn, loss=bpr †", "most_pop †"),
    ]
    assert table["tried"].to_list() == [2, 2, 1]
    for loss in ("bpr", "softmax"):
        ablations = pl.read_csv(tables / f"{SLUG}-gated_lightgcn-loss-{loss}-ablations.csv")
        assert ablations["ablation"].to_list()[0] == f"gated_lightgcn, loss={loss}"
        assert ablations.height == 2
    assert command(*words, "output=one") is None
    assert pl.read_csv(tmp_path / f"one/tables/{SLUG}-results.csv").height == 2
    error = command(*words, "by=[model.los]")
    assert "by=model.los: no run has this setting; did you mean model.loss" in error


def test_protocols_are_told_apart_and_said(write_run, tmp_path, caplog):
    write_run("a")
    other = write_run("b", model="gated_lightgcn", seen="none")
    with caplog.at_level(logging.WARNING):
        path = report(
            runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["recall@20"]
        )
    (warning,) = caplog.messages
    assert warning.startswith("Runs on tiny differ in seen and are not compared with each other: ")
    assert f"for example {other}" in warning
    assert "differ in seen" in path.read_text()
    for table in (tmp_path / "out/tables").glob("*results.csv"):
        assert len(pl.read_csv(table)) == 1


def test_settings_of_data_that_tell_runs_apart_are_named(write_run, tmp_path, caplog):
    write_run("a", data={"min_rating": 4, "root": "here"})
    write_run("b", fingerprint="b" * 64, data={"min_rating": None, "root": "there"})
    with caplog.at_level(logging.WARNING):
        report(runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["recall@20"])
    (warning,) = caplog.messages
    assert "data.min_rating is 4 or None" in warning
    assert "data.root" not in warning


def test_cold_items_are_a_protocol_with_warm_and_all_items_beside(write_run, tmp_path):
    write_run("all")
    write_run("cold", candidates="cold", l2=0.2)
    report(runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["recall@20"])
    slug = "tiny-official-seen-train-cold-candidates-aaaaaaaa"
    table = pl.read_csv(tmp_path / f"out/tables/{slug}-warm.csv")
    assert table.select("warm", "all").row(0) == (0.25, 0.125)
    assert not (tmp_path / f"out/tables/{SLUG}-warm.csv").exists()
    page = (tmp_path / "out/index.html").read_text()
    assert "Users rank cold items only" in page
    assert "Runs on tiny differ in candidates and are not compared" in page


def test_spoiled_features_are_data_of_their_own(write_run, tmp_path):
    write_run("a")
    write_run("noise", ablation="noisy_visual_20", fingerprint="b" * 64)
    report(runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["recall@20"])
    tables = sorted((tmp_path / "out/tables").glob("*-results.csv"))
    models = [pl.read_csv(table)["model"].to_list() for table in tables]
    assert models == [["bpr"], ["bpr, noisy_visual_20"]]


@pytest.mark.slow
def test_a_search_is_shown(command, shell, tmp_path):
    words = ("-m", "sweep=item_knn", "trainer=cpu", "data.world.users=60", "data.world.items=60")
    shell(*words, "model=item_knn", cwd=tmp_path)
    assert command("runs=multirun", "output=out", "metrics=[recall@20]") is None
    assert "Search item_knn-planted" in (tmp_path / "out/index.html").read_text()
    drawn = {path.name for path in (tmp_path / "out/figures").glob("search-*.svg")}
    assert drawn == {
        f"search-item_knn-planted-{name}.svg" for name in ("history", "parallel", "importance")
    }
    assert pyplot.get_fignums() == []  # a page of many searches would hold them all


@pytest.fixture
def study(monkeypatch):
    """`study(url)` makes one of a trial that was interrupted, its repetition, and a better one."""
    monkeypatch.setattr("mmrec.search.storage.PAUSES", ())

    def make(url, directions=("maximize",)):
        found = optuna.create_study(
            storage=open_storage(url), study_name="s", directions=directions
        )
        found.set_user_attr(IDENTITY, {"sweep.objective": ["val/recall@20", "seconds"]})
        space = {"l2": optuna.distributions.FloatDistribution(0, 1)}
        for number, value in enumerate((None, 0.25, 0.5)):
            trial = found.ask(space)
            if value is None:
                trial.set_user_attr(RETRIED, True)
                found.tell(trial, state=TrialState.FAIL)
            else:
                found.tell(trial, [value, 1.0 + number][: len(directions)])

    return make


@pytest.mark.usefixtures("_outputs")
@pytest.mark.parametrize("apart", [False, True])
def test_a_search_lists_its_trials_best_first(apart, study, tmp_path):
    url = f"sqlite:///{tmp_path / ('elsewhere.db' if apart else 'outputs/study.db')}"
    study(url)
    page = report(
        runs=str(tmp_path / "outputs"),
        output=str(tmp_path / "out"),
        metrics=["recall@20"],
        storages=[url] if apart else [],
    )
    assert "1 interrupted, repeated, 2 complete" in page.read_text()
    table = pl.read_csv(tmp_path / "out/tables/search-s-trials.csv")
    assert table["trial"].to_list() == [2, 1, 0]
    assert table["val/recall@20"].to_list() == ["0.5000", "0.2500", "–"]


@pytest.mark.usefixtures("_outputs")
def test_a_search_for_two_things_shows_its_front(study, tmp_path):
    study(f"sqlite:///{tmp_path}/outputs/study.db", ("maximize", "minimize"))
    report(runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["recall@20"])
    assert [path.name for path in (tmp_path / "out/figures").glob("search-s-*.svg")] == [
        "search-s-front.svg"
    ]


@pytest.mark.usefixtures("_outputs")
def test_a_study_that_cannot_be_read_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr("mmrec.search.storage.PAUSES", ())
    (tmp_path / "outputs/study.db").write_text("not a database")
    report(runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["recall@20"])
    text = (tmp_path / "out/tables/left-out.csv").read_text()
    assert "study.db" in text
    assert "file is not a database" in text


@pytest.mark.usefixtures("_outputs")
def test_an_ablation_has_the_interval_of_its_paired_difference(tmp_path):
    report(runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["recall@20"])
    table = pl.read_csv(tmp_path / f"out/tables/{SLUG}-gated_lightgcn-ablations.csv")
    low, high = map(float, table["95 % interval"][1].split(" to "))
    change = float(table["change"][1].removesuffix(" %"))
    assert low < change < high < 0


@pytest.mark.usefixtures("_outputs")
def test_the_baseline_can_be_named(tmp_path):
    report(
        runs=str(tmp_path / "outputs"),
        output=str(tmp_path / "out"),
        metrics=["recall@20"],
        baseline="bpr",
    )
    text = (tmp_path / f"out/tables/{SLUG}-significance.md").read_text()
    assert text.startswith("### Difference from bpr, test recall@20")


@pytest.mark.parametrize(
    ("typed", "folder"),
    [
        ("runs=a[1]", "a[1]"),
        ("runs=[a[1]]", "a[1]"),
        ("runs='a[1]'", "a[1]"),
        ("runs=a[1]/**", "a[1]"),
        ("runs=a[1]/**", "a1"),  # a pattern, as there is no folder of this name
    ],
)
def test_a_folder_may_have_brackets_in_its_name(typed, folder, command, write_run, tmp_path):
    write_run("bpr")
    (tmp_path / "outputs").rename(tmp_path / folder)
    words = (typed, "output=out", "metrics=[recall@20]", "resamples=10")
    assert command(*words) is None
    assert "Completed runs: 1;" in (tmp_path / "out/index.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("runs=nowhere",), "runs=nowhere: no such folder"),
        (("metric=recall@21",), "metric=recall@21: no run has this metric; did you mean recall@20"),
        (("metric=ndcg@20",), "metric=ndcg@20: no run has it as a validation metric, so it cannot"),
        (("metrics=[hits@20]",), "metrics=hits@20: no run has this metric"),
        (("storages=[journal:///no/s.log]",), "storages: no such file: "),
        (("baseline=bqr",), "baseline=bqr: no run has this model; did you mean bpr"),
        (("resamples=0",), "resamples=0: expected 1 or more"),
        (("resamples=many",), "resamples=many: expected an integer"),
        (("colour=red",), "colour: no such setting"),
    ],
)
@pytest.mark.usefixtures("_outputs")
def test_a_mistake_is_one_line(words, message, command, tmp_path):
    base = {"metrics": "metrics=[recall@20]", "output": "output=out"}
    given = [w for key, w in base.items() if not any(word.startswith(key + "=") for word in words)]
    error = command(*given, *words)
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.fixture
def ablations(write_run, tmp_path):
    """`ablations(settings=..., base=...)`: the two tables on a model and an ablation of it."""

    def make(ablation="sum", settings=(), base=()):
        write_run("base", model="gated_lightgcn", gain=0.2, **dict(base))
        write_run("other", model="gated_lightgcn", ablation=ablation, **dict(settings))
        report(runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["recall@20"])
        tables = tmp_path / "out/tables"
        found = {}
        for name in ("ablations", "ablations-not-comparable"):
            path = tables / f"{SLUG}-gated_lightgcn-{name}.csv"
            found[name] = pl.read_csv(path) if path.exists() else None
        return found["ablations"], found["ablations-not-comparable"]

    return make


def test_an_ablation_in_which_nothing_else_differs_is_compared(ablations):
    compared, apart = ablations()
    assert compared["ablation"].to_list() == ["gated_lightgcn", "sum"]
    assert apart is None


@pytest.mark.parametrize(
    ("base", "settings", "named"),
    [
        ({}, {"l2": 0.2}, "model.l2=0.2 (model: 0.1)"),
        ({"layers": 2}, {}, "model.layers=not set (model: 2)"),
        ({}, {"layers": 2}, "model.layers=2 (model: not set)"),
        ({"schedule": {"a": 1}}, {"schedule": {"a": 2}}, "model.schedule.a=2 (model: 1)"),
        ({}, {"fusion": "mean"}, "model.fusion=mean (model: None)"),  # not what the file sets
    ],
)
def test_an_ablation_of_other_settings_is_listed_and_not_compared(base, settings, named, ablations):
    compared, apart = ablations(base=base, settings=settings)
    assert compared is None
    assert apart["ablation"].to_list() == ["sum"]
    assert apart["other differences"].to_list() == [named]


def test_of_an_ablation_run_twice_the_comparable_one_is_shown(ablations, write_run):
    write_run("tuned", model="gated_lightgcn", ablation="sum", l2=0.2, gain=0.4)
    compared, apart = ablations()
    assert compared["ablation"].to_list() == ["gated_lightgcn", "sum"]
    assert apart is None


def test_an_ablation_whose_file_is_unknown_is_not_compared(ablations):
    compared, apart = ablations(ablation="nowhere")
    assert compared is None
    assert "model.fusion=nowhere (model: None)" in apart["other differences"][0]


def test_an_ablation_of_ones_own_is_read_from_its_folder(ablations, write_run, tmp_path):
    folder = tmp_path / "mine"
    (folder / "ablation" / "gated_lightgcn").mkdir(parents=True)
    (folder / "ablation" / "gated_lightgcn" / "own.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: gated_lightgcn\n"
        "  - override /router_schedule: none\nmodel:\n  fusion: own\n"
    )
    write_run("own", model="gated_lightgcn", ablation="own", config_dir=folder)
    compared, apart = ablations()
    assert {*compared["ablation"]} == {"gated_lightgcn", "sum", "own"}
    assert apart is None


def test_users_are_paired_only_if_they_are_the_same(write_run, tmp_path, caplog):
    write_run("a", gain=0.2)
    other = write_run("b", model="vbpr")
    table = pl.read_parquet(other / "per_user.parquet")
    table[:30].write_parquet(other / "per_user.parquet")
    report(runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["recall@20"])
    assert "vbpr and bpr have different test users" in caplog.text
    assert not (tmp_path / f"out/tables/{SLUG}-significance.csv").exists()


def test_hostile_folders_are_left_out_in_a_line_each(write_run, tmp_path, caplog):
    write_run("whole")
    (write_run("aliases", l2=0.2) / "config.yaml").write_text("a: &a [1]\nb: *a\n")
    (write_run("deep", l2=0.3) / "config.yaml").write_text("[" * 20_000)
    (write_run("json", l2=0.4) / "result.json").write_text("[" * 100_000)
    (write_run("date", l2=0.5) / "config.yaml").write_text("a: !!timestamp 2026-11-30\n")
    path = write_run("long", l2=0.6) / "result.json"
    path.write_text(path.read_text().replace('"model": "bpr"', f'"model": "{"x" * 5000}"'))
    path = write_run("escape", l2=0.7) / "result.json"
    path.write_text(path.read_text().replace('"name": "tiny"', '"name": "\\u001b[31m"'))
    path = write_run("other", seed=1) / "per_user.parquet"
    pl.DataFrame({"user": [0, 1], "recall@20": [0.5, 1.0]}).write_parquet(path)
    path = write_run("nan", model="vbpr") / "per_user.parquet"
    pl.DataFrame({"user": [0, 1], "recall@20": [0.5, float("nan")]}).write_parquet(path)
    (write_run("curve", seed=2) / "metrics.csv").write_text("epoch,val/recall@20\n0,a\n1,b\n")
    caplog.set_level(logging.INFO)
    report(runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["recall@20"])
    table = pl.read_csv(tmp_path / "out/tables/left-out.csv")
    found = {folder.rpartition("/")[2]: why for folder, why in table.iter_rows()}
    bad = {"aliases", "deep", "json", "date", "long", "escape", "other", "nan"}
    assert {*found} == bad
    assert all(len(why) < 400 for why in found.values())
    lines = [m for m in caplog.messages if m.startswith("left out")]
    assert len(lines) == len(found)
    assert all(line.isprintable() for line in lines)


def test_names_of_a_stranger_stay_text_in_the_page(write_run, tmp_path):
    write_run("a", model="vbpr")
    write_run("b", ablation="=cmd|'calc'!A0 <script>")
    given = {"runs": str(tmp_path / "outputs"), "metrics": ["recall@20"], "title": "<script>"}
    page = report(output=str(tmp_path / "out"), **given).read_text()
    assert "<script" not in page
    assert "&lt;script" in page


@pytest.mark.usefixtures("_outputs")
def test_a_linked_or_malformed_study_is_left_out(study, tmp_path):
    study(f"sqlite:///{tmp_path / 'elsewhere.db'}")
    before = (tmp_path / "elsewhere.db").read_bytes()
    (tmp_path / "outputs/study.db").symlink_to(tmp_path / "elsewhere.db")
    study(f"sqlite:///{tmp_path / 'outputs/bpr0/study.db'}")
    with sqlite3.connect(tmp_path / "outputs/bpr0/study.db") as database:
        database.execute("update trial_params set distribution_json = 'nothing'")
    database.close()
    report(runs=str(tmp_path / "outputs"), output=str(tmp_path / "out"), metrics=["recall@20"])
    text = (tmp_path / "out/tables/left-out.csv").read_text()
    assert "outputs/study.db" in text
    assert "symbolic link" in text
    assert "bpr0/study.db" in text
    assert (tmp_path / "elsewhere.db").read_bytes() == before
    assert not list((tmp_path / "out/tables").glob("search-*"))
