"""Recommendation lists in parts: `shard=3/64` of the users, or all parts at once.

Each part is a Parquet file in a folder. Its metadata hold the request, so that a part is written
once and parts of different requests are not mixed. When all parts exist, `manifest.json` lists
them. Several machines may write parts of one folder on a shared disk at the same time.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from mmrec.commands.lists import SUFFIXES
from mmrec.config.errors import SettingError
from mmrec.config.literals import Known
from mmrec.config.paths import cache_dir, data_root, expand, replace_file
from mmrec.training.results import locate_run, read_result

if TYPE_CHECKING:
    from torch import Tensor

Engine = Literal["local", "ray"]
MANIFEST = "manifest.json"
REQUEST = "mmrec.request"  # key in a part's metadata
NUMBERS = re.compile(r"(?:(\d+)/)?(\d+)")
TABLES = ("users", "exclude", "only", "history")  # settings that may name a file
FOLDERS = ("items",)
MOST = 9_999  # parts; more would make a long list of files

log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """The parts of a folder, and which of them is meant.

    Attributes:
        folder: contains the parts.
        total: number of parts.
        number: from 1; None: all of them.
    """

    folder: Path
    total: int
    number: int | None

    def missing(self) -> list[int]:
        """Return the numbers of the parts that are meant and do not exist."""
        meant = range(1, self.total + 1) if self.number is None else [self.number]
        return [number for number in meant if not self.path(number).is_file()]

    def path(self, number: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"part-{number:05d}-of-{self.total:05d}.parquet"

    def users(self, chosen: Tensor, number: int) -> Tensor:
        """Return the users of a part, a block of consecutive ones: [Q] -> [Q / total].

        Raises:
            SettingError: there are more parts than users.
        """
        if self.total > len(chosen):
            raise SettingError(
                setting="shard",
                value=f"{number}/{self.total}",
                problem=f"there are only {len(chosen)} users",
            )
        ends = [place * len(chosen) // self.total for place in (number - 1, number)]
        return chosen[slice(*ends)]


def parse_shard(shard: str | int, output: str | None) -> Parts:
    """Read `shard=3/64` (the third of 64 parts) or `shard=64` (all of them).

    Args:
        shard: the setting.
        output: the folder of the parts; it is made if it does not exist.

    Raises:
        SettingError: `shard` has another form, or `output` is not a folder's name.
    """
    found = NUMBERS.fullmatch(str(shard))
    number = int(found[1]) if found and found[1] else None
    if not found or not 1 <= (1 if number is None else number) <= int(found[2]) <= MOST:
        raise SettingError(
            setting="shard",
            value=shard,
            expected=f"a part and the number of parts, for example 3/64, or 64 for all parts; at "
            f"most {MOST} parts",
        )
    folder = expand(output) if output else None
    if folder is None or folder.suffix in SUFFIXES or (folder.exists() and not folder.is_dir()):
        raise SettingError(
            setting="output",
            value=output,
            problem="with shard= it names the folder of the parts",
            expected="for example output=lists",
        )
    return Parts(folder, int(found[2]), number)


def request_of(run: str | Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what decides the lists: the checkpoint, the data, and the settings.

    Args:
        run: folder, `result.json` or checkpoint of the run.
        settings: those of `recommend`; tables and folders are replaced by digests of their content.
    """
    from mmrec.data.files import digests

    folder, checkpoint = locate_run(run)
    request = dict(settings)
    for name in (*TABLES, *FOLDERS):
        value = settings.get(name)
        if (path := _given_path(value)) is None:
            continue
        if path.is_file():
            request[name] = digests([path])[path]
        else:
            files = [file for file in sorted(path.iterdir()) if file.is_file()]
            request[name] = {file.name: digest for file, digest in digests(files).items()}
    return {
        **request,
        "checkpoint": next(iter(digests([checkpoint]).values())),
        "data": read_result(folder)["data_card"]["fingerprint"],
    }


def _given_path(value: object) -> Path | None:
    """Return the file or folder that a setting names; None if it names something else."""
    if not isinstance(value, str | Path) or value in get_args(Known):
        return None
    path = expand(value)
    return path if path.exists() else None


def check_parts(parts: Parts, request: Mapping[str, Any]) -> None:
    """Check that the parts that exist belong to a request, before another one is written.

    Raises:
        SettingError: a file has another number of parts or another request.
    """
    import polars as pl

    for path in parts.folder.glob("part-*-of-*.parquet"):
        same_total = path.name.endswith(parts.path(1).name.partition("-of-")[2])
        if not (same_total and pl.read_parquet_metadata(path).get(REQUEST) == as_text(request)):
            raise SettingError(
                setting="output",
                value=str(parts.folder),
                problem=f"{path.name} there belongs to another request",
                hint="choose another folder, or remove this one",
            )


def as_text(request: Mapping[str, Any]) -> str:
    """Return a request as it stands in the metadata of a part."""
    return json.dumps(request, sort_keys=True, default=str)


def join(parts: Parts, request: Mapping[str, Any]) -> None:
    """Write the manifest if all parts exist."""
    import polars as pl

    paths = [parts.path(number) for number in range(1, parts.total + 1)]
    missing = sum(not path.is_file() for path in paths)
    if missing:
        log.info("%d of %d parts are still missing in %s", missing, parts.total, parts.folder)
        return
    check_parts(parts, request)
    files = []
    for path in paths:
        rows, users = (
            pl.scan_parquet(path, glob=False)
            .select(pl.len(), pl.col("user").n_unique().alias("users"))
            .collect()
            .row(0)
        )
        files.append({"file": path.name, "users": users, "rows": rows})
    manifest = {
        "format": 1,
        "request": json.loads(as_text(request)),
        "users": sum(file["users"] for file in files),
        "rows": sum(file["rows"] for file in files),
        "parts": files,
    }
    with replace_file(parts.folder / MANIFEST) as part:
        part.write_text(json.dumps(manifest, indent=2) + "\n")
    log.info("all %d parts exist: %s", parts.total, parts.folder / MANIFEST)


def _write(place: str, shard: str, settings: Mapping[str, Any]) -> None:
    """Write one part from a working directory, to which paths that a run recorded are relative."""
    from mmrec.commands.recommend import recommend

    with suppress(OSError):  # on another machine, which may not have it
        os.chdir(place)
    recommend(**settings, shard=shard)


def write_with_ray(parts: Parts, numbers: Sequence[int], settings: Mapping[str, Any]) -> None:
    """Write parts as tasks of a Ray cluster, with one CPU and with `accelerator=gpu` one GPU each.

    `RAY_ADDRESS` names the cluster; without it one is started here. The folder must be on a disk
    that all machines share.

    Args:
        parts: the folder and the number of parts.
        numbers: the parts to write.
        settings: those of `recommend` for each part, but for `shard` and `engine`.

    Raises:
        SettingError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise SettingError(
            setting="engine",
            value="ray",
            problem="Ray is not installed",
            hint="pip install 'mmrec[ray]'",
        ) from None

    whole = {**settings}
    for name in ("run", "output", "data_root", *FOLDERS, *TABLES):
        if (path := _given_path(whole.get(name))) is not None:
            whole[name] = str(path.resolve())  # a task has another working directory
    searched = [str(expand(place).resolve()) for place in sys.path]
    surroundings = {
        "MMREC_DATA": str(data_root().resolve()),
        "MMREC_CACHE": str(cache_dir().resolve()),
        "PYTHONPATH": os.pathsep.join(searched),
    }
    started = not ray.is_initialized()
    if started:
        ray.init(
            include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": surroundings}
        )
    try:
        gpus = 1 if settings.get("accelerator") == "gpu" else 0
        write = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(_write)
        here, total = str(Path.cwd()), parts.total
        waiting = [write.remote(here, f"{number}/{total}", whole) for number in numbers]
        while waiting:
            done, waiting = ray.wait(waiting)
            ray.get(done)
            log.info("parts written: %d of %d", len(numbers) - len(waiting), len(numbers))
    finally:
        if started:
            ray.shutdown()
