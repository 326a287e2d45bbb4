"""A path on the command line means the same whatever letters it has, and `~` is the home folder."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mmrec.commands.evaluate import main as evaluate
from mmrec.config.home import EITHER, LISTS, PATHS, with_home

NAMES = (
    *("é", "日本", "a+b", "a=b", "a b", "a[1]", "[1]x", "a#b", "a&b", "a,b"),
    *("a(b)", "it's", "a:b", "x\\"),
)


def value(word):
    """What Hydra reads."""
    (prepared,) = with_home([word])
    return OverridesParser.create().parse_override(prepared).value()


@pytest.fixture(autouse=True)
def _home(monkeypatch):
    monkeypatch.setenv("HOME", "/houses/me")


@pytest.mark.parametrize("setting", [name.replace("*", "csv") for name in (*PATHS, *EITHER)])
def test_home_is_expanded_in_every_path(setting):
    for typed in ("~/a", "'~/a'", '"~/a"'):
        assert value(f"{setting}={typed}") == "/houses/me/a"
        assert value(f"+{setting}={typed}") == "/houses/me/a"
    assert value(f"{setting}=~") == "/houses/me"
    assert value(f"{setting}=a/~b") == "a/~b"


@pytest.mark.parametrize("setting", LISTS)
def test_home_is_expanded_in_lists_and_urls(setting):
    assert value(f"{setting}=~/a/**") == "/houses/me/a/**"
    assert value(f"{setting}=[~/a,'~/b', c]") == ["/houses/me/a", "/houses/me/b", "c"]
    assert value(f"{setting}=[~/a[1],b]") == ["/houses/me/a[1]", "b"]
    assert value(f"{setting}=~/a[1,2]/**") == "/houses/me/a[1,2]/**"
    assert value(f"{setting}=journal:///~/s.log") == "journal:////houses/me/s.log"


@pytest.mark.parametrize("setting", ["run", "data.root", "run_dir", "output", "runs"])
@pytest.mark.parametrize("name", NAMES)
def test_any_name_may_be_typed(setting, name):
    if setting != "runs" or "," not in name:  # there, it makes a list
        assert value(f"{setting}={name}") == name


@pytest.mark.parametrize(
    "word", ["run=null", "run=", "run=${x}", "seed=1", "users=[a,b]", "~data.root", "title='a ~/b'"]
)
def test_other_words_stay(word):
    assert with_home([word]) == [word]


def test_folders_of_configuration_and_several_values():
    words = ["--config-dir", "~/c", "--config-dir=~/d", "-m", "data.root=~/a,b", "ckpt=a,b"]
    expected = ["--config-dir", "/houses/me/c", "--config-dir=/houses/me/d", "-m"]
    assert with_home(words) == [*expected, "data.root='/houses/me/a',b", "ckpt=a,b"]


def test_a_sign_that_hydra_refuses_has_a_hint_that_names_the_setting(in_process):
    error = in_process(evaluate, "run=x", "seen=é")
    assert "\"seen='é'\"" in error


def test_a_name_from_a_file_cannot_act_on_the_terminal(in_process):
    error = in_process(evaluate, "run=\x1b[31m" + "x" * 5000)
    assert "\x1b" not in error
    assert "\\x1b[31m" in error
    assert len(error) < 1500
