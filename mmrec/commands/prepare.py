"""Create a data set from raw files: `python -m mmrec.prepare data=baby`."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from mmrec.commands.app import launch
from mmrec.config.errors import SettingError
from mmrec.config.paths import cache_dir, data_root, expand
from mmrec.config.schema import TARGET, check_call, conf_dir
from mmrec.config.words import refuse_numbers
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
) -> Path:
    """Create a data set from raw files, or verify an existing one.

    Args:
        data: source and settings, a `RawData`.
        check: prepared folder, or its name in the folder of data sets, to verify instead.
        offline: do not download anything.
        downloads: folder of downloaded files; None: `downloads` in the cache folder.
        overwrite: replace a folder that was prepared from other files or with other settings.

    Returns:
        Folder of the data set.

    Raises:
        DataError: a download failed, a file is invalid, or a folder differs from its manifest.
        SettingError: invalid configuration.
    """
    from mmrec.data.prepare import Fetcher, RawData, check_folder, prepare_folder

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
            raise SettingError(setting="check", value=check, problem="no such folder")
        manifest = check_folder(folder.absolute())
        log.info("%s matches its manifest: %d files", folder, len(manifest["files"]))
        return folder
    if not isinstance(data, RawData):
        raise SettingError(setting="data", value=data, expected="a data set, for example data=baby")
    kept = cache_dir() / "downloads" if downloads is None else expand(downloads)
    return prepare_folder(data, Fetcher(kept, offline), versions(), overwrite=overwrite)
