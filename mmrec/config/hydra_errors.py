"""Convert Hydra's errors to one line with similar valid names and a hint.

Hydra's exceptions contain the setting only in their text, so the text is matched with patterns.
Text without a match is shown unchanged. For the misspelt `model.layer=3`, Hydra prints 5 lines
without a valid name; here it is one line with `did you mean model.layers?`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmrec.config.schema import conf_dir, nearest, unread_search_setting

# Launchers of other packages, and the extra that installs them.
EXTRAS = {
    "joblib": "joblib",
    "ray": "ray",
    "ray_aws": "ray",
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
}
NAMED_BY_DATA = {  # settings whose keys are modalities or columns
    "data.corrupt": "+data.corrupt.visual=0.2",
    "data.where": "+data.where.event=purchase",
}


PREPARED = "prepare"  # group of `data=` in `mmrec prepare`


def explain_error(error: BaseException, config_name: str) -> str:
    """Return an error of Hydra as one line, with similar valid names."""
    text = str(error)
    if found := re.search(r"(?:Could not find|In .*: Could not find) '([^']+)'", text):
        group, _, choice = found[1].rpartition("/")
        if group == "hydra/launcher" and choice in EXTRAS:
            return f"{group}={choice} requires a package: pip install 'mmrec[{EXTRAS[choice]}]'"
        typed = "data" if group == PREPARED else group
        return f"{typed}={choice}: there is no conf/{found[1]}.yaml" + instead(group, choice)
    if found := re.search(r"Could not (?:override|append to config|delete) '([^']+)'", text):
        key = found[1].split("@")[0]
        group, dot, _ = key.partition(".")
        chosen = dot and any(word.lstrip("+").startswith(f"{group}=") for word in sys.argv)
        if config_name == "config" and not chosen and (unread := unread_search_setting(key)):
            return str(unread)
        if key == PREPARED and config_name == "config":
            return f"{key}: a run has no such group; prepare data with `mmrec prepare data=...`"
        known = _keys(config_name)
        for place in (key, key.rpartition(".")[0]):
            if place in NAMED_BY_DATA:
                return f"{key}: add a key with +, for example {NAMED_BY_DATA[place]}"
        if key in known and config_name == "config":
            if not {"-m", "--multirun"} & {*sys.argv}:
                chosen_word = next((w for w in sys.argv if w.startswith(f"{group}=")), group)
                return f"{key}: {chosen_word} has no such setting"
            return f"{key}: some of the combined choices lack this setting; run them separately"
        if below := [k for k in known if k.startswith(f"{key}.")]:
            return f"{key}: expected one of its settings: {', '.join(below)}"
        if config_name == "config" and key in _of_folders():
            return f"{key}: only data sets in folders have this setting; add data=folder"
        if key.startswith("trainer.") and f"+{key}" not in sys.argv and key in _of_trainer():
            return f"{key}: not set by conf/trainer; add it with +{key}=..."
        elsewhere = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
        return f"{key}: no such setting" + nearest(key, elsewhere or known)
    if found := re.search(r"Ambiguous value for argument '([^=]+)=([^']+,[^']+)'", text):
        key, value = found.groups()
        if config_name == "config" and (key == "seed" or (conf_dir() / key).is_dir()):
            return f"{key}={value}: several values need a multirun: add -m"
        return f"{key}={value}: use brackets for a list, {key}=[{value}], or quote the text"
    if found := re.search(r"Error parsing override '([^']*)'\s*missing EQUAL", text):
        return f"{found[1]}: expected setting=value, for example run=outputs/... or seed=1"
    if re.search(
        r"Ambiguous value|mismatched|extraneous|no viable alternative|token recog|NoViableAlt", text
    ):
        setting, _, value = next(_unreadable(sys.argv[1:]), "").partition("=")
        if value.count("[") > value.count("]"):
            return (
                f"{setting}={value}: a bracket is not closed; in a shell, quote lists with spaces: "
                f"'{setting}=[a, b]'"
            )
        hint = f""", in a shell "{setting}='{value}'\"""" if value else ""
        reason = " ".join(text.partition("See https://")[0].split())
        return f"{reason}; quote values with special characters or brackets{hint}"
    if "NoneType is incompatible" in text and (found := re.search(r"'([^=' ]+)=", text)):
        return (
            f"{found[1]}: choice() does not accept null inside another function; list the values, "
            f"for example {found[1]}=null,1"
        )
    if found := re.search(r"Missing mandatory value: (\S+)", text):
        key = getattr(error, "full_key", None) or found[1]
        return f"{key}: a value is required; add {key}=... (see --help)"
    cause = f": {error.__cause__}" if error.__cause__ else ""
    if found := re.search(r"BasicSweeper.*unexpected keyword argument '(\w+)'", text + cause):
        unread = unread_search_setting(found[1])
        return str(unread or f"hydra.sweeper.{found[1]}: no such setting")
    return " ".join(f"{text}{cause}".split())


def _unreadable(words: Sequence[str]) -> Iterator[str]:
    """Yield the command line settings that Hydra cannot parse."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for word in words:
        try:
            parser.parse_override(word)
        except HydraException:
            if "=" in word:
                yield word


def _of_trainer() -> set[str]:
    """Return the settings of Lightning's trainer."""
    import inspect

    from lightning import Trainer

    return {f"trainer.{name}" for name in inspect.signature(Trainer.__init__).parameters}


def _of_folders() -> set[str]:
    """Return the settings of data sets in folders."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(conf_dir() / "data/folder.yaml"), resolve=False)
    assert isinstance(config, dict)
    return {f"data.{path}" for path in _paths(config, "")}


def instead(group: str, choice: str) -> str:
    """Return the end of an error about an unknown choice: similar choices, or all choices."""
    there = sorted(_choices(group))
    if group == "data":
        near = nearest(choice, there)
        start = " For" if near.endswith("?") else "; for"
        return f"{near}{start} a folder of your own, use data=folder data.name={choice}"
    if group == PREPARED:
        near = nearest(choice, there)
        start = " For" if near.endswith("?") else "; for"
        return f"{near}{start} tables of your own, use data=tables data.name={choice}"
    if group == "experiment" and choice.endswith("-best"):
        return f"; for the best trial of a search, add --config-dir multirun/{choice[:-5]}"
    listed = f"; the choices are {', '.join(there)}"
    return listed if 0 < len(there) < 9 else nearest(choice, there)


def _choices(group: str) -> list[str]:
    folder = conf_dir() / group
    depth = "*/*.yaml" if group == "ablation" else "*.yaml"
    found = (path.relative_to(folder).with_suffix("") for path in folder.glob(depth))
    return [path.as_posix() for path in found if not path.name.startswith("_")]


def _keys(config_name: str) -> list[str]:
    """Return all settings and groups of the default composition and of the selected choices."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    groups = {p.name for p in conf_dir().iterdir() if p.is_dir() and config_name == "config"}
    groups |= {f"{PREPARED}@data"} if config_name == PREPARED else set()
    chosen = [word for word in sys.argv[1:] if word.split("=")[0] in groups and "," not in word]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            composed = compose(config_name, overrides=chosen)
        except HydraException:  # a choice is in another folder
            composed = compose(config_name)
    config = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(config, dict)
    names = {name.rpartition("@")[2] for name in groups}
    return sorted({*_paths(config, ""), *names})


def _paths(node: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
