"""Router schedules: what a scripted series of entropies sets off, and when."""

from __future__ import annotations

import json
import math

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mmrec.config.errors import SettingError
from mmrec.config.schema import conf_dir
from mmrec.nn.schedules import Constant, EntropyTriggered, Observed, Ramp

YAMLS = sorted((conf_dir() / "router_schedule").glob("*.yaml"))


def told(schedule, gates, load=0.0):
    """The routing of each epoch, and of the one after the last, given H_m of each."""
    found = [schedule.routing()]
    for entropy in gates:
        schedule.end_epoch(Observed(0.5, entropy, load))
        found.append(schedule.routing())
    return found


def decided(schedule, values):
    """The epochs that had passed when stage 2 began, given `1 - H_s` of each epoch."""
    for value in values:
        schedule.end_epoch(Observed(1 - value, 0.99, 0.99))
    return schedule.trigger


GATES = {"watch": "gates", "threshold": 0.9, "tolerance": 0.02}  # as runs had it before


def test_the_trigger_waits_until_the_load_is_spread_and_rests():
    rising = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.92, 0.93, 0.94, 0.95, 0.95, 0.95, 0.95, 0.95]
    schedule = EntropyTriggered(
        watch="gates", threshold=0.9, window=2, tolerance=0.021, earliest=4, ramp=4, latest=None
    )
    told(schedule, rising[:9])
    assert schedule.trigger is None  # the means of two epochs went from .91 to .935
    assert schedule.stage == 1
    told(schedule, rising[9:10])
    assert schedule.trigger == 10  # from .925 to .945
    assert schedule.stage == 2


def test_a_schedule_says_what_its_second_stage_waits_for():
    schedule = EntropyTriggered(**{**GATES, "tolerance": 0.0}, window=1, earliest=2, latest=None)
    assert schedule.waits_for == "epoch 2 (router_schedule.earliest)"
    told(schedule, [0.9, 0.95])
    assert schedule.waits_for == (
        "a settled entropy of the gates (router_schedule.threshold and tolerance)"
    )
    told(schedule, [0.95])
    assert schedule.waits_for is None
    ramp = Ramp(start=1)
    assert ramp.waits_for == "epoch 1 (router_schedule.start)"
    told(ramp, [0.5])
    assert ramp.waits_for is None
    assert Constant(top_k=None).waits_for is None


def test_after_the_trigger_every_value_moves_on_a_line_and_stays():
    schedule = EntropyTriggered(
        watch="gates",
        threshold=0.9,
        window=1,
        tolerance=1.0,
        earliest=2,
        ramp=4,
        coverage=(1.0, 0.2),
        confidence=(0.0, 1.0),
        temperature=(2.0, 1.0),
        noise=(0.4, 0.0),
        top_k=None,
    )
    found = told(schedule, [0.95] * 8)
    assert schedule.trigger == 2
    assert [r.coverage for r in found] == pytest.approx([1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])
    assert [r.confidence for r in found] == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1])
    assert [r.temperature for r in found] == pytest.approx([2, 2, 2, 1.75, 1.5, 1.25, 1, 1, 1])
    assert [r.noise for r in found] == pytest.approx([0.4, 0.4, 0.4, 0.3, 0.2, 0.1, 0, 0, 0])
    assert {r.top_k for r in found} == {None}


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([0.95] * 60, 10),  # at the earliest
        ([0.89] * 60, 50),  # never spread: at the latest
        ([0.96, 0.88] * 30, 10),  # the means over windows rest where epochs do not
        ([0.35 + 0.02 * n for n in range(30)] + [0.95] * 15, 38),  # it has to come to rest
    ],
)
def test_when_even_gates_trigger(loads, expected):
    schedule = EntropyTriggered(**GATES)
    told(schedule, loads)
    assert schedule.trigger == expected


PAIRS = {"threshold": 1.5, "tolerance": 0.1, "window": 2, "earliest": 4, "latest": 30}


@pytest.mark.parametrize("scale", [1.0, 1e-6, 3.0])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.01] * 40, 30),  # as decided as in the first epoch: at the latest
        ([0.01, 0.02, 0.03, 0.04, *[0.04] * 30], 7),  # not yet at .035, then .04
        ([0.01 * 1.2**n for n in range(40)], 30),  # it grows by 44 % from window to window
        ([0.01, 0.016, 0.016, 0.016, 0.016], 5),  # means of .013, then .016 and .016
        ([0.01, 0.014, 0.014, *[0.014] * 40], 30),  # 1.4 times as decided is too little
        ([0.0] * 40, 4),  # a router that does not see pairs has nothing to wait for
    ],
)
def test_pairs_trigger_once_more_decided_than_at_first_and_at_rest(values, expected, scale):
    assert decided(EntropyTriggered(**PAIRS), [scale * x for x in values]) == expected


def test_the_second_stage_of_a_ramp_begins_with_it():
    schedule, found = Ramp(start=2, epochs=3), []
    for _ in range(6):
        found.append((schedule.stage, schedule.routing().confidence))
        schedule.end_epoch(Observed(0.5, 0.5, 0.5))
    assert [stage for stage, _ in found] == [1, 1, 2, 2, 2, 2]
    assert [x for _, x in found] == pytest.approx([0, 0, 0, 0.1 / 3, 0.2 / 3, 0.1])


@pytest.mark.parametrize(("threshold", "expected"), [(0.8, 10), (0.85, 20), (0.9, 37), (0.95, 50)])
def test_the_trigger_can_watch_the_load_where_gates_are_even_from_the_start(threshold, expected):
    schedule = EntropyTriggered(watch="load", threshold=threshold, tolerance=0.02)
    for epoch in range(60):
        schedule.end_epoch(Observed(0.99, 0.99, min(0.8 + 0.003 * epoch, 0.92)))
    assert schedule.trigger == expected


def test_a_threshold_is_met_by_equality():
    below, at = (EntropyTriggered(**{**GATES, "threshold": 0.75}) for _ in range(2))
    told(below, [0.7499] * 12)
    told(at, [0.75] * 12)
    assert (below.trigger, at.trigger) == (None, 10)


def test_without_a_latest_epoch_it_may_never_be_triggered():
    schedule = EntropyTriggered(latest=None)
    told(schedule, [0.1] * 500)
    assert schedule.trigger is None


@pytest.mark.parametrize("cut", range(0, 30, 3))
@pytest.mark.parametrize(
    "make",
    [
        lambda: EntropyTriggered(window=3, earliest=5, ramp=7),
        lambda: Ramp(start=4, epochs=9, shape="cosine"),
        Constant,
    ],
)
def test_a_schedule_goes_on_from_its_state_as_if_never_stopped(make, cut):
    loads = [0.6 + 0.35 * min(1, n / 12) for n in range(30)]
    whole, first, second = make(), make(), make()
    expected = told(whole, loads)
    told(first, loads[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert told(second, loads[cut:]) == expected[cut:]
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("shape", "expected"), [("linear", [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]),
                            ("cosine", [0, 0, 0, 0.1464466, 0.5, 0.8535534, 1, 1])]
)  # fmt: skip
def test_a_ramp_moves_by_time_alone(shape, expected):
    schedule = Ramp(start=2, epochs=4, shape=shape, confidence=(0.0, 1.0))
    assert [r.confidence for r in told(schedule, [0.3] * 7)] == pytest.approx(expected)


def test_the_cut_comes_with_the_end_of_the_ramp():
    kept = [r.top_k for r in told(Ramp(start=2, epochs=3, top_k=(None, 2)), [0.3] * 6)]
    assert kept == [None, None, None, None, None, 2, 2]
    assert {r.top_k for r in told(Ramp(start=2, epochs=3, top_k=2), [0.3] * 6)} == {2}
    assert Ramp(top_k=(4, 2)).most_kept == 4
    assert Ramp(top_k=(None, None)).most_kept is None


def test_a_state_of_an_earlier_version_goes_on():
    schedule, other = (EntropyTriggered(**GATES, window=2, earliest=6) for _ in range(2))
    told(schedule, [0.95] * 4)
    state = schedule.state_dict()
    del state["first"]
    other.load_state_dict(state)
    assert told(other, [0.95] * 3) == told(schedule, [0.95] * 3)
    assert other.trigger == schedule.trigger == 6


def test_a_ramp_of_no_epochs_is_a_step():
    schedule = Ramp(start=3, epochs=0, coverage=(1.0, 0.0))
    assert [r.coverage for r in told(schedule, [0.3] * 5)] == [1, 1, 1, 0, 0, 0]
    assert Ramp(start=0, epochs=0, coverage=(1.0, 0.0)).routing().coverage == 0


def test_a_constant_one_never_moves():
    schedule = Constant(coverage=0.6, confidence=0.5, temperature=0.7, noise=0.1, top_k=2)
    assert set(told(schedule, [0.1, 0.99] * 40)) == {(0.6, 0.5, 0.7, 0.1, 2)}
    assert schedule.stage == 1


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (lambda: Ramp(coverage=(1.0,)), "coverage", [1.0]),
        (lambda: Ramp(noise=(0.0, -1.0)), "noise", [0.0, -1.0]),
        (lambda: Constant(temperature=0), "temperature", [0, 0]),
        (lambda: Constant(coverage=math.inf), "coverage", [math.inf, math.inf]),
        (lambda: Constant(temperature=math.nan), "temperature", [math.nan, math.nan]),
        (lambda: Constant(top_k=0), "top_k", 0),
        (lambda: Ramp(start=-1), "start", -1),
        (lambda: Ramp(shape="round"), "shape", "round"),
        (lambda: EntropyTriggered(watch="x"), "watch", "x"),
        (lambda: Ramp(epochs=-1), "epochs", -1),
        (lambda: EntropyTriggered(threshold=-0.1), "threshold", -0.1),
        (lambda: EntropyTriggered(watch="gates", threshold=1.1), "threshold", 1.1),
        (lambda: EntropyTriggered(top_k=(None, 0)), "top_k", [None, 0]),
        (lambda: Ramp(top_k=(1, 2, 3)), "top_k", [1, 2, 3]),
        (lambda: EntropyTriggered(tolerance=-1), "tolerance", -1),
        (lambda: EntropyTriggered(window=0), "window", 0),
        (lambda: EntropyTriggered(ramp=-2), "ramp", -2),
        (lambda: EntropyTriggered(earliest=9, latest=8), "latest", 8),
    ],
)
def test_what_cannot_be_is_refused(make, name, value):
    with pytest.raises(SettingError) as error:
        make()
    assert (error.value.setting, error.value.value) == (f"router_schedule.{name}", value)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_each_file_makes_a_schedule(path, composed):
    config = composed("model=magnet", f"router_schedule={path.stem}").router_schedule
    if path.stem == "none":
        assert not config
    else:
        top_k = {"even_pair": 2, "confidence_only": 3}.get(path.stem)
        assert instantiate(config, _convert_="all").routing().top_k == top_k


@pytest.mark.parametrize(
    ("name", "schedule"),
    [("entropy_triggered", EntropyTriggered()), ("linear", Ramp())],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_schedule_made_in_python_is_that_of_its_file(name, schedule, composed):
    config = composed("model=magnet", f"router_schedule={name}").router_schedule
    assert vars(instantiate(config, _convert_="all")) == {
        key: {k: list(v) for k, v in value.items()} if key == "_pairs" else value
        for key, value in vars(schedule).items()
    }


@pytest.mark.parametrize(
    ("words", "share"),
    [
        (["router_schedule=coverage_only"], 0.0),
        (["ablation=magnet/stage_1"], 0.0),
        (["router_schedule=constant"], 0.5),
        (["ablation=magnet/fixed_mid"], 0.5),
        (["ablation=magnet/stage_2"], 1.0),
    ],
)
def test_what_holds_for_ever_is_an_end_or_the_middle_of_the_stages(composed, words, share):
    stages = OmegaConf.to_container(composed("model=magnet").router_schedule)
    found = composed("model=magnet", *words).router_schedule
    for name in ("coverage", "confidence", "temperature", "noise"):
        first, last = stages[name]
        assert found[name] == pytest.approx(first + share * (last - first)), name
    assert found.top_k == stages["top_k"][share == 1]
