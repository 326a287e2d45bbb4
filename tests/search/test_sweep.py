"""A search: what it tries, keeps, refuses and leaves behind. Arithmetic stands in for runs."""

from __future__ import annotations

import math
import re
import sys
import time
from types import SimpleNamespace

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from optuna.trial import TrialState

import mmrec.commands.run
import mmrec.search.study
from mmrec.training.results import ResultError

SMALL = ("data.world.users=60", "data.world.items=60", "trainer=cpu")
SPACE = ("model.l2=tag(log,interval(1e-5,1e-1))", "model.layers=range(1,4)")
STUDY = ("hydra.sweep.dir=study", *SMALL)
OPTUNA = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.top=0", *STUDY)


def value_of(config):
    """Best at two layers and l2 = 1e-3."""
    layers = config.model.get("layers", 2)
    return 1 - abs(layers - 2) / 4 - abs(math.log10(config.model.l2) + 3) / 10


def divide(_):
    """An error of a run."""
    return 1 / 0


@pytest.fixture
def search(in_process, monkeypatch, tmp_path, capfd):
    """`search(*words)` in an empty folder.

    `search.score` gives a run's value from its configuration; `search.runs` holds the words of
    every run; `search.error` is the one line of a search that ended badly, `search.out` the rest.
    """

    def stub(config, overrides, watch):  # noqa: ARG001
        call.runs.append([*overrides])
        call.configs.append(config)
        value = call.score(config)
        if isinstance(value, str):
            return result(status=value)
        return result(**value) if isinstance(value, dict) else result(value)

    def call(*words):
        call.error = in_process(mmrec.commands.run.main, *words)
        call.out = capfd.readouterr().out
        study = tmp_path / "study" / "study.db"
        if study.exists():
            return optuna.load_study(study_name=None, storage=f"sqlite:///{study}")
        return None

    monkeypatch.setattr(mmrec.commands.run, "run", stub)
    call.runs, call.configs, call.score = [], [], value_of
    return call


def result(value=0.5, status="completed", seconds=1.0, rss=100.0, **metrics):
    return {
        "status": status,
        "metrics": {"val/recall@20": value, "test/recall@20": 2.0, **metrics},
        "seconds": {"setup": 0.0, "fit": seconds, "test": None},
        "peak_rss_mib": rss,
        "best_value": value,
    }


def params(study):
    return [trial.params for trial in study.trials]


def test_a_search_finds_writes_and_says(search, tmp_path):
    study = search(*OPTUNA, *SPACE, "hydra.sweeper.n_trials=6", "hydra.sweeper.top=2")
    assert search.error is None
    assert len(search.runs) == len(study.trials) == 6
    assert study.trials[0].params == {"model.l2": 1e-4, "model.layers": 2}  # the model's own
    for words, trial in zip(search.runs, study.trials, strict=True):
        assert words == [*SMALL, *(f"{name}={trial.params[name]}" for name in trial.params)]
    best = max(study.trials, key=lambda t: t.value)
    assert OmegaConf.load(tmp_path / "study/optimization_results.yaml") == {
        "name": "optuna",
        "best_params": best.params,
        "best_value": best.value,
    }
    lines = [line for line in search.out.splitlines() if " of 6: " in line]
    assert len(lines) == 6
    assert f"best val/recall@20 {best.value:.4f} (trial {best.number}); 0 s left" in lines[-1]
    assert {path.name for path in (tmp_path / "study/experiment").iterdir()} == {
        "study-best.yaml",
        "study-2.yaml",
    }


def test_a_run_in_a_search_is_what_it_would_be_alone(search, composed):
    search(*OPTUNA, *SPACE, "hydra.sweeper.n_trials=2")
    alone = composed(*search.runs[1])
    for config in (alone, search.configs[1]):
        config.run_dir = "anywhere"
    assert search.configs[1] == alone


def test_a_file_in_conf_turns_it_on_and_names_the_study(search, tmp_path):
    search("-m", "sweep=bpr", *SMALL, "sweep.n_trials=2", "model.dim=8")
    assert search.error is None
    assert [config.model._target_ for config in search.configs] == ["mmrec.models.BPR"] * 2
    assert {words[0] for words in search.runs} == {"model=bpr"}
    assert not any("sweep" in word for words in search.runs for word in words)
    assert (tmp_path / "multirun/bpr-planted/experiment/bpr-planted-best.yaml").exists()


@pytest.mark.parametrize(
    "sampler",
    ["tpe", *(pytest.param(s, marks=pytest.mark.slow) for s in ("random", "gp", "nsgaii"))],
)
def test_a_study_that_is_continued_is_the_one_without_the_break(sampler, search, tmp_path):
    words = ("-m", "sweep=bpr", *STUDY, f"sweep/sampler={sampler}", "sweep.top=0")
    if sampler in ("tpe", "gp"):
        words += ("sweep.sampler.n_startup_trials=2",)
    whole = params(search(*words, "sweep.n_trials=4"))
    (tmp_path / "study").rename(tmp_path / "whole")
    search(*words, "sweep.n_trials=2")
    assert params(search(*words, "sweep.n_trials=4")) == whole
    assert len({str(found) for found in whole}) == 4
    before = len(search.runs)
    search(*words, "sweep.n_trials=4")
    assert len(search.runs) == before  # it has its total


def test_a_grid_runs_every_value_once(search):
    grid = ("-m", "sweep=item_knn", "model=item_knn", *STUDY)
    search.score = lambda config: 1 / config.model.k
    study = search(*grid, "sweep.n_trials=50", "model.k=choice(1,2,3)", "sweep.n_jobs=2")
    assert sorted(trial.params["model.k"] for trial in study.trials) == [1, 2, 3]
    assert search.error is None


@pytest.mark.parametrize("pruner", ["none", "median", "hyperband", "patient"])
def test_every_pruner_can_be_chosen(pruner, search):
    search("-m", "sweep=bpr", *SMALL, f"sweep/pruner={pruner}", "sweep.n_trials=1", "sweep.top=0")
    assert search.error is None


def test_cma_es_runs_or_says_what_it_needs(search):
    search("-m", "sweep=bpr", *SMALL, "sweep/sampler=cmaes", "sweep.n_trials=3")
    try:
        import cmaes  # noqa: F401
    except ImportError:
        assert "pip install 'mmrec[cmaes]'" in search.error
    else:
        assert search.error is None


def test_settings_that_were_tried_are_not_run_again(search):
    study = search(*OPTUNA, "model.layers=choice(1,2)", "hydra.sweeper.n_trials=5")
    assert len(study.trials) == 5
    assert len(search.runs) == len({t.params["model.layers"] for t in study.trials})
    assert all(t.value == 0.9 - abs(t.params["model.layers"] - 2) / 4 for t in study.trials)
    assert re.search(r"copied from trial [0-3]\)", search.out)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("sweep.objective=test/recall@20",),
            ("sweep.objective=test/recall@20: expected a validation metric",),
        ),
        (("sweep.objective=[val/recall@20,test/ndcg@20]",), ("expected a validation metric",)),
        (("sweep.objective=val/recal@20",), ("did you mean val/recall@20",)),
        (
            ("sweep.direction=[maximize,minimize]",),
            ("number of directions is 2, expected 1, one per objective",),
        ),
        (("sweep.n_trials=x",), ("sweep.n_trials=x: Input should be a valid integer",)),
        (("sweep.n_trials=0",), ("sweep.n_trials=0:", "greater than or equal to 1")),
        (("sweep.constraints.second=3",), ("no such setting", "sweep.constraints.seconds")),
        (("sweep.constraints.seconds=-1",), ("sweep.constraints", "greater than 0")),
        (("sweep.study_name=a/b",), ("sweep.study_name=a/b: String should match",)),
        (("sweep.seeds=[1,1]",), ("duplicate seed",)),
        (("sweep.n_trial=3",), ("sweep.n_trial: no such setting", "sweep.n_trials")),
        (("sweep/sampler=tp",), ("there is no conf/sweep/sampler/tp.yaml", "tpe")),
        (("sweep/sampler=grid",), ("a grid needs values, not an interval",)),
        (("+sweep.sampler.sede=1",), ("sweep.sampler:", "sede")),
        (("sweep.storage=nonsense",), ("sweep.storage=nonsense: expected a URL",)),
        (("sweep.storage=sqlite:///:memory:",), ("memory is not shared with other processes",)),
        (("sweep/pruner=median", "sweep.objective=[val/recall@20,seconds]"), ("cannot prune",)),
        (("model.dimm=choice(1,2)",), ("model.dimm: no such setting", "model.dim")),
        (("model.dim=choice(8,x)",), ("model.dim=x: expected an integer",)),
        (("model.dim=interval(1,9)",), ("model.dim=1.0: expected an integer",)),
        (("model.dim=interval(9,1)",), ("model.dim=interval(9,1): the interval is reversed",)),
        (("data=choice(planted,plantet)",), ("there is no conf/data/plantet.yaml", "planted")),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(words, expected, search, tmp_path):
    search("-m", "sweep=bpr", *SMALL, *words)
    assert search.error.startswith("error: ")
    assert "\n" not in search.error
    for part in expected:
        assert part in search.error
    assert search.runs == []
    assert list(tmp_path.iterdir()) == []


def test_a_space_of_another_model_is_named(search):
    search("-m", "sweep=gated_lightgcn", "model=lightgcn", *STUDY)
    assert "sweep=gated_lightgcn: it searches model.content_l2, which model=lig" in search.error
    assert "; give sweep=lightgcn" in search.error


def suggest(config, trial):
    """More layers need a value of their own."""
    assert "model" in config
    if trial.params["model.layers"] == 3:
        trial.suggest_categorical("model.l2", [1e-3, 1e-2])


def test_a_function_suggests_what_depends_on_another_choice(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(suggest=suggest))
    words = (*OPTUNA, SPACE[1], "hydra.sweeper.custom_search_space=mine.suggest")
    study = search(*words, "hydra.sweeper.n_trials=6")
    assert search.error is None
    for trial in study.trials:
        assert ("model.l2" in trial.params) == (trial.params["model.layers"] == 3)
    assert {"2", "3"} <= {str(trial.params["model.layers"]) for trial in study.trials}
    assert any("model.l2=" in word for words in search.runs for word in words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("hydra.sweeper.custom_search_space=no.such.function",), "custom_search_space=no.such"),
        (
            (
                "sweep=bpr",
                "sweep/sampler=grid",
                "sweep.custom_search_space=builtins.print",
            ),
            "sweep.custom_search_space=builtins.print: it is not available with sweep/sampler=grid",
        ),
    ],
)
def test_a_function_that_cannot_be_is_one_line(words, message, search):
    search(*OPTUNA[:1], *(OPTUNA[1:] if "hydra" in words[0] else STUDY), *words)
    assert message in search.error


def test_a_setting_that_was_taken_away_is_told_of_in_the_file(search, tmp_path):
    words = ("-m", "hydra/sweeper=optuna", *STUDY, *SPACE, "hydra.sweeper.n_trials=1")
    search(*words, "~callbacks.early_stopping")
    text = (tmp_path / "study/experiment/study-best.yaml").read_text()
    assert (
        "# Files cannot remove settings: add ~callbacks.early_stopping on the command line" in text
    )


def test_a_search_without_m_says_so(in_process):
    said = in_process(mmrec.commands.run.main, "sweep=bpr", "run_dir=never")
    assert "sweep: it requires a multirun; add -m" in said


def test_a_search_file_that_sets_more_than_a_search_is_refused(search, tmp_path):
    (tmp_path / "mine/sweep").mkdir(parents=True)
    text = "# @package _global_\ndefaults: [/sweep/bpr]\ntrainer:\n  max_epochs: 3\n"
    (tmp_path / "mine/sweep/short.yaml").write_text(text)
    search("-m", "sweep=short", *SMALL, "--config-dir", "mine")
    assert "trainer.max_epochs: it is set in the sweep's file" in search.error


def test_groups_are_choices_too_and_an_experiment_says_which(search, tmp_path):
    search.score = lambda config: {"BPR": 0.1, "VBPR": 0.2}[config.model._target_.split(".")[-1]]
    words = ("model=choice(bpr,vbpr)", "evaluation.cutoffs=[5,20]", "data.world.seed=3")
    search(*OPTUNA, *words, "hydra.sweeper.n_trials=8", "hydra.sweeper.top=1")
    assert search.error is None
    [found] = (tmp_path / "study/experiment").iterdir()
    experiment = OmegaConf.load(found)
    assert {"override /model": "vbpr"} in experiment.defaults
    assert experiment.evaluation == {"cutoffs": [5, 20]}
    best = next(c for c in search.configs if c.model._target_.endswith(".VBPR"))
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(mmrec.config.schema.conf_dir()), version_base="1.3"):
        again = compose(
            "config",
            overrides=[
                "run_dir=unused",
                "experiment=study-best",
                f"hydra.searchpath=[file://{tmp_path}/study]",
            ],
        )
    best.run_dir = "unused"
    assert again == best


def test_a_folder_with_runs_of_another_study_is_refused(search, tmp_path):
    (tmp_path / "study/0").mkdir(parents=True)
    search(*OPTUNA, *SPACE, "hydra.sweeper.n_trials=2")
    assert "holds runs that do not belong to study study" in search.error


def test_a_study_does_not_mix_settings(search):
    search(*OPTUNA, *SPACE, "hydra.sweeper.n_trials=1")
    search(*OPTUNA, *SPACE, "hydra.sweeper.n_trials=2", "model.dim=8")
    said = "sweep.study_name=study: the study was created with other settings, model.dim: 64, now 8"
    assert said in search.error
    search(*OPTUNA, *SPACE[:1], "hydra.sweeper.n_trials=2")
    assert "created with other settings, model.layers" in search.error or "space." in search.error
    assert len(search.runs) == 1


def test_failed_trials_are_told_kept_and_counted(search):
    def score(config):
        if config.model.layers == 3:
            raise MemoryError("out of memory\nwith a second line")
        return value_of(config)

    search.score = score
    words = (*OPTUNA, *SPACE, "hydra.sweeper.n_trials=8", "hydra.sweeper.max_failure_rate=1")
    study = search(*words)
    failed = [t for t in study.trials if t.state is TrialState.FAIL]
    assert failed
    assert {t.user_attrs["error"] for t in failed} == {"out of memory"}
    assert search.error is None
    assert f"trial {failed[0].number}, {failed[0].number + 1} of 8: failed: out of memory" in (
        search.out
    )


def test_too_many_failures_end_a_search(search):
    search.score = divide
    study = search(*OPTUNA, *SPACE, "hydra.sweeper.n_trials=8")
    assert len(study.trials) == 3  # a quarter of 8 may fail
    assert "3 of 8 trials failed, more than sweep.max_failure_rate=0.25 allows" in search.error
    assert "trial 0: division by zero" in search.error


def test_a_search_of_which_all_trials_fail_ends_badly(search):
    search.score = lambda _: math.nan
    words = (*OPTUNA, *SPACE, "hydra.sweeper.n_trials=2", "hydra.sweeper.max_failure_rate=1")
    search(*words)
    assert (
        "no trial was completed within the constraints; failed: trial 0: val/recall@20 is nan"
        in search.error
    )


def test_a_trial_is_worth_the_mean_of_its_seeds(search):
    gains = {3: 0.1, 5: 0.2, 8: 0.6}
    search.score = lambda config: config.model.l2 + gains[config.seed]
    study = search(*OPTUNA, *SPACE, "hydra.sweeper.n_trials=2", "hydra.sweeper.seeds=[3,5,8]")
    assert [words[-1] for words in search.runs] == ["seed=3", "seed=5", "seed=8"] * 2
    for trial in study.trials:
        assert trial.value == pytest.approx(trial.params["model.l2"] + 0.3)


def test_a_pruned_first_seed_saves_the_others(search):
    search.score = lambda _: "pruned"
    pruner = "{_target_: optuna.pruners.MedianPruner}"
    study = search(
        *OPTUNA,
        *SPACE,
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.seeds=[0,1]",
        f"hydra.sweeper.pruner={pruner}",
    )
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED] * 2
    assert len(search.runs) == 2
    assert search.error.startswith("error: study study: no trial was completed")


def test_a_search_is_told_nothing_of_the_test():
    told = mmrec.training.results.for_a_search(result())
    assert told["metrics"] == {"val/recall@20": 0.5}
    assert "test" not in str(told)


@pytest.fixture
def launcher(monkeypatch):
    """`launcher(lose)`: runs are worth .5; `lose(words)` may raise before any is run."""

    def use(lose):
        batches = []

        class Launcher:
            def launch(self, words, initial_job_idx):
                batches.append(len(words))
                lose(words)
                told = mmrec.training.results.for_a_search(result())
                return [JobReturn(status=JobStatus.COMPLETED, _return_value=told) for _ in words]

        monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: Launcher())
        return batches

    return use


@pytest.fixture
def on_disk(monkeypatch):
    """What run folders hold, by name."""

    def read(folder):
        if folder.name not in found:
            raise ResultError("none")
        return found[folder.name]

    found = {}
    monkeypatch.setattr("mmrec.search.search.read_result", read)
    return found


def test_what_a_launcher_loses_is_run_again_and_then_has_failed(search, launcher):
    def lose(_):
        raise RuntimeError("the job was killed")

    launcher(lose)
    study = search(*OPTUNA, *SPACE, "hydra.sweeper.n_trials=4")
    assert "trial 1: the job was killed" in search.error
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 4
    assert [trial.user_attrs.get("retry_of") for trial in study.trials] == [None, 0, None, 2]


def test_of_a_lost_batch_the_finished_count_and_the_others_run_again_alone(
    search, launcher, on_disk
):
    def lose(words):
        if len(words) > 1:
            on_disk["0"] = result(0.7) | {"overrides": [*words[0]]}
            on_disk["1"] = result(0.9) | {
                "overrides": ["model.l2=7", "model.layers=1"]
            }  # another's
            raise RuntimeError("a worker was killed")

    batches = launcher(lose)
    study = search(*OPTUNA, *SPACE, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=3")
    assert search.error is None
    assert batches == [3, 1, 1]
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[0].value == 0.7
    assert [t.params for t in study.trials[3:]] == [t.params for t in study.trials[1:3]]
    assert "trial 1 failed: a worker was killed; it will be repeated, alone" in search.out


@pytest.fixture
def foreign(search):
    """`foreign(worker, alive)` leaves a third trial to another worker; words that go on."""
    words = (*OPTUNA, *SPACE)

    def leave(worker, alive):
        study = search(*words, "hydra.sweeper.n_trials=2")
        space = {
            "model.l2": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True),
            "model.layers": optuna.distributions.IntDistribution(1, 3),
        }
        trial = study.ask(space)
        trial.set_user_attr("worker", worker)
        trial.set_user_attr("alive", alive)
        return study, (*words, "hydra.sweeper.n_trials=3")

    return leave


def test_a_trial_of_a_living_worker_elsewhere_is_left_to_it(search, foreign, monkeypatch):
    study, words = foreign("another machine:1", time.time())

    def sleep(_):
        study._storage.set_trial_user_attr(study.trials[2]._trial_id, "alive", time.time())

    monkeypatch.setattr("mmrec.search.search.time.sleep", sleep)
    study = search(*words)
    assert search.error is None
    assert "trials [2] run elsewhere; waiting for a sign of life" in search.out
    assert "trials [2] of study study are still running elsewhere" in search.out
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "RUNNING"]


def test_a_trial_of_a_silent_worker_elsewhere_is_taken_over(search, foreign, monkeypatch):
    monkeypatch.setattr("mmrec.search.study.GRACE", 1.0)
    monkeypatch.setattr("mmrec.search.search.POLL", 0.1)
    _, words = foreign("another machine:1", time.time())
    study = search(*words)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]
    assert study.trials[3].params == study.trials[2].params


def test_what_a_killed_worker_had_finished_is_not_run_again(search, foreign, on_disk):
    study, words = foreign(f"{mmrec.search.study._place()}:999999999", 0.0)
    layers, l2 = (study.trials[2].params[k] for k in ("model.layers", "model.l2"))
    words_of_it = [*SMALL, f"model.l2={l2}", f"model.layers={layers}"]
    on_disk["2"] = result(0.7) | {"overrides": words_of_it}
    search.runs.clear()
    study = search(*words)
    assert search.runs == []
    assert study.trials[2].value == 0.7
    assert len(study.trials) == 3


def test_a_pruned_trial_that_nobody_was_told_of_stays_pruned(search, foreign, on_disk):
    study, words = foreign(f"{mmrec.search.study._place()}:999999999", 0.0)
    settings = [f"{name}={value}" for name, value in study.trials[2].params.items()]
    on_disk["2"] = result(0.7, "pruned") | {"overrides": [*SMALL, *settings]}
    study = search(*words)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED"]


def test_several_objectives_have_a_front(search, tmp_path):
    def score(config):
        return {"value": config.model.layers / 10, "seconds": config.model.layers * 2.0}

    search.score = score
    study = search(
        "-m",
        "sweep=lightgcn",
        *STUDY,
        "sweep/sampler=nsgaii",
        "sweep.objective=[val/recall@20,seconds]",
        "sweep.n_trials=6",
    )
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    found = OmegaConf.load(tmp_path / "study/optimization_results.yaml").solutions
    assert {tuple(s["values"]) for s in found} == {tuple(t.values) for t in study.best_trials}
    assert "on the Pareto front" in search.out


def test_the_best_is_within_the_bounds(search):
    search.score = lambda config: {"value": config.model.layers, "seconds": config.model.layers}
    study = search(
        *OPTUNA,
        "model.layers=choice(1,2,3,4)",
        "hydra.sweeper.n_trials=12",
        "hydra.sweeper.constraints.seconds=2.5",
    )
    assert max(trial.value for trial in study.trials) > 2
    assert "violates constraints" in search.out
    assert "best val/recall@20 2.0000" in search.out


def test_no_trial_begins_after_the_timeout(search):
    study = search(*OPTUNA, *SPACE, "hydra.sweeper.n_trials=50", "hydra.sweeper.timeout=0.5")
    assert 1 <= len(study.trials) < 50


def test_an_interrupted_trial_is_run_again(search):
    def score(config):
        if len(search.runs) == 2:
            raise KeyboardInterrupt
        return value_of(config)

    search.score = score
    words = (*OPTUNA, *SPACE, "hydra.sweeper.n_trials=3")
    study = search(*words)
    assert search.error == 130
    study = search(*words)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[2].params == study.trials[1].params
    assert study.trials[2].user_attrs["retry_of"] == 1


SPACES = sorted(p.stem for p in (mmrec.config.schema.conf_dir() / "sweep").glob("[!_]*.yaml"))


def usual(space):
    """A model's own settings, with those that its space is about."""
    model = space.removesuffix("_softmax")
    plain = OmegaConf.load(mmrec.config.schema.conf_dir() / "model" / f"{model}.yaml")
    about = {} if space == model else {"loss": "softmax"}
    return {name: about.get(name, plain[name]) for name in plain.keys() - {"defaults"}}


@pytest.mark.parametrize("space", SPACES)
def test_every_space_searches_settings_of_its_model_and_has_its_other_settings(space, composed):
    model = space.removesuffix("_softmax")
    config = composed(f"model={model}", f"sweep={space}", "sweep.study_name=mine")
    params = config.sweep.params
    tuned = [name for name in params if name.startswith(("model.", "optimizer."))]
    assert params["model"] == model
    assert tuned
    for name in tuned:
        OmegaConf.select(config, name, throw_on_missing=True)
        assert name.rpartition(".")[2] in OmegaConf.select(config, name.rpartition(".")[0])
    fixed = {name: params[name] for name in tuned if "(" not in str(params[name])}
    assert fixed == ({} if space == model else {"model.loss": "softmax"})


@pytest.mark.slow
@pytest.mark.parametrize("space", ["ease", "mamex_softmax", "sasrec", "egra"])
def test_the_first_trial_of_a_space_has_the_models_own_settings(search, space):
    search.score = lambda _: 0.5
    search("-m", f"sweep={space}", *SMALL, "sweep.n_trials=1", "sweep/sampler=tpe")
    assert search.error is None
    assert [w for w in search.runs[0] if w.startswith(("model.", "optimizer."))]
    for name, value in usual(space).items():
        assert search.configs[-1].model[name] == value, name
