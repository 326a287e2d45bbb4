"""Create a data set from raw files: `python -m mmrec.prepare data=baby`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from mmrec.commands.app import launch
from mmrec.config.errors import SettingError
from mmrec.config.paths import cache_dir, data_root, expand
from mmrec.config.schema import TARGET, check_call, check_value, conf_dir
from mmrec.config.words import refuse_numbers
from mmrec.tables.headers import public_sets
from mmrec.training.provenance import versions

log = logging.getLogger(__name__)
GROUP = "prepare@data"  # configuration group of data sets; users type `data`


def main() -> None:
    """Run the command with the arguments of the process."""
    sys.argv[1:] = [
        f"prepare@{word}" if word.startswith("data=") else word for word in sys.argv[1:]
    ]
    launch(_main, "prepare")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="prepare")
def _main(config: DictConfig) -> None:
    from omegaconf import OmegaConf

    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        run_command(plain)
    except Exception as error:
        raise SystemExit(1) from error  # Hydra would log any other exception a second time


def run_command(plain: dict[str, Any]) -> Path:
    """Check resolved settings, and call the command.

    Args:
        plain: configuration as plain containers.

    Raises:
        DataError: see `prepare`.
        SettingError: see `prepare`.
    """
    refuse_numbers(plain)
    check_call({TARGET: "mmrec.commands.prepare.prepare", **plain}, "")
    if isinstance(plain.get("data"), dict):
        data = hydra.utils.instantiate(plain["data"], _convert_="object")
        plain = {**plain, "data": data}
    return prepare(**plain)


def prepare(
    *,
    data: object = None,
    check: str | None = None,
    offline: bool = False,
    downloads: str | None = None,
    overwrite: bool = False,
    card: bool | None = None,
) -> Path:
    """Create a data set from raw files, or verify an existing one.

    Args:
        data: source and settings, a `RawData`.
        check: folder of any data set, or the name of one in the folder of data sets, to verify
            instead. Nothing is written to it, except with `card=True`.
        offline: download nothing.
        downloads: folder of downloaded files; None: `downloads` in the cache folder.
        overwrite: replace a folder that was prepared from other files or with other settings.
        card: write the data card, `card.html` and `card.md`, into the folder; None: if a data set
            is made.

    Returns:
        Folder of the data set.

    Raises:
        DataError: a download failed, a file is invalid, or a folder differs from its manifest.
        SettingError: invalid configuration.
    """
    from mmrec.data.prepare import Fetcher, RawData, describe, inspect_folder, prepare_folder
    from mmrec.report.data_card import write_card

    if (data is None) == (check is None):
        raise SettingError(
            setting="data",
            problem="exactly one of data and check is required",
            hint="for example data=baby, data=tables data.name=shop, or check=data/baby",
        )
    if check is not None:
        folder = expand(check)
        if not folder.is_dir() and (data_root() / check).is_dir():
            folder = data_root() / check
        if not folder.is_dir():
            raise SettingError(setting="check", value=check, problem="there is no such folder")
        source, manifest = inspect_folder(folder.absolute())
        found = describe(source, folder)
        if card:
            log.info("card: %s", write_card(folder, found, manifest))
        return folder
    if not isinstance(data, RawData):
        raise SettingError(setting="data", value=data, expected="a data set, for example data=baby")
    kept = cache_dir() / "downloads" if downloads is None else expand(downloads)
    return prepare_folder(
        data,
        Fetcher(kept, offline),
        versions(),
        overwrite=overwrite,
        write_card=None if card is False else write_card,
    )


def prepare_missing(data: Mapping[str, Any]) -> None:
    """Make the data set that a run reads, with the settings of conf/prepare, if it is missing.

    Several processes may ask at once; one makes it and the others wait.

    Args:
        data: the `data` group of a run. Without `prepare: true` nothing is made.

    Raises:
        DataError: a file cannot be fetched or is invalid.
        SettingError: no such set is known, or it cannot be made here.
    """
    from filelock import FileLock

    wanted = data.get("prepare", False)
    check_value(bool, wanted, "data.prepare")
    if not wanted:
        return
    name, root = str(data.get("name")), data.get("root")
    parent = data_root() if root is None else expand(root)
    if (parent / name).is_dir():
        return
    known = public_sets()
    if name not in known:
        raise SettingError(
            setting="data.prepare",
            value=True,
            problem=f"{parent} has no data set {name}, and it is none of {', '.join(known)}",
            hint="`mmrec prepare data=tables` makes one from your own tables",
        )
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f".missing-{name}.lock"):
        if (parent / name).is_dir():
            return
        log.info("%s has no data set %s; making it", parent, name)
        try:
            run_command(public_settings(name, root))
        except SettingError as error:
            raise SettingError(
                setting="data.prepare",
                value=True,
                problem=str(error),
                hint=f"or make it with other settings: `mmrec prepare data={name} ...`",
            ) from error


def public_settings(name: str, root: str | None) -> dict[str, Any]:
    """Return the settings of the command for a public set, as plain containers.

    Args:
        name: of a file in conf/prepare.
        root: folder of data sets; None: the usual one.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton
    from omegaconf import OmegaConf

    state = Singleton.get_state()  # of the run that asks
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("prepare", [f"{GROUP}={name}"])
    finally:
        Singleton.set_state(state)
    config.data.root = root
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    settings: dict[str, Any] = plain
    return settings
