"""An ablation is compared with its model only if nothing else differs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmrec.report.ablations import differences

SCHEDULE = {
    "router_schedule._target_": "mmrec.nn.schedules.Constant",
    "router_schedule.coverage": 0.75,
    "router_schedule.confidence": 0.05,
    "router_schedule.temperature": 1.5,
    "router_schedule.noise": 0.0,
    "router_schedule.top_k": None,
}
BASE = {
    "model.dim": 64,
    "router_schedule._target_": "mmrec.nn.schedules.EntropyTriggered",
    "router_schedule.earliest": 10,
    "router_schedule.top_k": 3,
}


def method(settings):
    run = SimpleNamespace(ablation_file="magnet/fixed_mid", config_dirs=())
    return SimpleNamespace(settings=settings, runs=[run])


def test_a_group_that_the_ablation_replaces_may_differ_as_its_file_says():
    assert differences(method(BASE), method({"model.dim": 64, **SCHEDULE})) == {}


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"router_schedule.top_k": 7}, "router_schedule.top_k"),
        ({"router_schedule.later": 1}, "router_schedule.later"),
        ({"model.dim": 32}, "model.dim"),
    ],
)
def test_any_other_difference_is_listed(change, setting):
    found = differences(method(BASE), method({"model.dim": 64, **SCHEDULE, **change}))
    assert list(found) == [setting]
