"""What a run leaves behind: `result.json`, and the folder around it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec.config.old_runs import without_removed
from mmrec.config.paths import expand, replace_file
from mmrec.config.text import first_line, one_line
from mmrec.config.yaml_file import YamlFileError, read_yaml

if TYPE_CHECKING:
    import polars as pl

CONFIG, OVERRIDES, RESULT = "config.yaml", "overrides.yaml", "result.json"
EPOCHS, PER_USER = "metrics.csv", "per_user.parquet"
BEST, LAST = Path("checkpoints/best.ckpt"), Path("checkpoints/last.ckpt")
JSON_BYTES, JSON_DEPTH = 2**24, 40  # limits of a result.json


class ResultError(ValueError):
    """A run folder is not one, or is incomplete; the message says what to do."""


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Check against the schema and write `result.json`, whole or not at all."""
    validate_result(result)
    with replace_file(folder / RESULT) as part:
        part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def for_a_search(result: Mapping[str, Any]) -> dict[str, Any]:
    """What a search may know of a run: validation and costs, never test."""
    return {
        "status": result["status"],
        "metrics": {k: v for k, v in result["metrics"].items() if k.startswith("val/")},
        "seconds": total_seconds(result),
        "peak_rss_mib": result["peak_rss_mib"],
    }


def total_seconds(result: Mapping[str, Any]) -> float:
    """Return the seconds that a run took, from its result."""
    return math.fsum(result["seconds"][name] or 0.0 for name in ("setup", "fit", "test"))


def locate_run(path: str | Path) -> tuple[Path, Path]:
    """A run's folder, and the checkpoint that is meant.

    Args:
        path: the folder or its `result.json`, for the best checkpoint; or a checkpoint in it.

    Raises:
        ResultError: there is no run.
    """
    path = expand(path)
    folder = path.parent if path.name == RESULT else path
    checkpoint = folder / BEST
    if path.suffix == ".ckpt":
        checkpoint = path.absolute()
        folder = checkpoint.parent.parent
    if not (folder / CONFIG).is_file():
        raise ResultError(
            f"there is no {folder / CONFIG}; give the folder of a run, as outputs/..."
        )
    return folder, checkpoint


def read_epochs(path: Path) -> pl.DataFrame:
    """A run's table of epochs, `metrics.csv`: a row an epoch, null where nothing was measured.

    All rows are looked at to tell numbers from text: the first validation may come late.
    """
    import polars as pl

    return pl.read_csv(path, infer_schema_length=None, glob=False)


def to_continue(folder: Path) -> str:
    """The command that goes on with a run that was stopped."""
    words = read_overrides(folder)
    if words is None:  # older folders have no such file
        return f"the words that it began with, run_dir={folder} and ckpt=last"
    kept = [word for word in words if not word.startswith(("run_dir=", "ckpt="))]
    line = shlex.join([*kept, f"run_dir={folder}", "ckpt=last"])
    return f"python -m mmrec.run {one_line(line, 4000)}"


def table_error(path: Path, error: object) -> ResultError:
    """Return the error about a table of a run that cannot be read."""
    return ResultError(f"{path} cannot be read ({one_line(error)}); run it again")


def read_config(folder: Path) -> dict[str, Any]:
    """Read a run's `config.yaml`; the folder may come from somebody else.

    Settings that no longer exist are dropped where they hold the value that is still implemented.

    Raises:
        ResultError: the file cannot be read as plain values, or is not a mapping.
    """
    path = folder / CONFIG
    try:
        config = read_yaml(path)
    except (OSError, YamlFileError) as error:
        raise ResultError(f"{first_line(error)}; run it again") from None
    if not isinstance(config, Mapping):
        raise ResultError(f"{path} has no settings; is it the config.yaml of a run?")
    return without_removed({str(name): value for name, value in config.items()})


def read_overrides(folder: Path) -> list[str] | None:
    """Read a run's `overrides.yaml`; None if it is missing or malformed."""
    try:
        words = read_yaml(folder / OVERRIDES)
    except (OSError, YamlFileError):
        return None
    return [str(word) for word in words] if isinstance(words, list) else None


def read_result(folder: Path) -> dict[str, Any]:
    """Read and check `result.json`.

    Raises:
        ResultError: there is none, it is cut short, or it is not what the schema says.
    """
    path = folder / RESULT
    if not path.is_file():
        what = "give the folder of a run, as outputs/..."
        if (folder / LAST).is_file():
            what = f"the run has not ended: wait for it, or continue it: {to_continue(folder)}"
        elif (folder / CONFIG).is_file():
            what = "the run has not ended its first epoch, or was killed in it"
        raise ResultError(f"{folder} holds no {RESULT}; {what}")
    result = read_json(path)
    validate_result(result)
    assert isinstance(result, dict)
    return result


def read_json(path: Path) -> Any:
    """Read JSON that somebody else may have written.

    Raises:
        ResultError: the file is larger than 16 MiB, nested more than 40 levels deep, not JSON, or
            it has a number that is not finite.
    """
    try:
        with path.open("rb") as file:
            content = file.read(JSON_BYTES + 1)
        if len(content) > JSON_BYTES:
            raise ValueError(f"larger than {JSON_BYTES // 2**20} MiB")
        value = json.loads(content, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
        _check_depth(value)
    except RecursionError:
        problem: object = f"nested more than {JSON_DEPTH} levels deep"
    except (OSError, ValueError) as error:
        problem = error
    else:
        return value
    raise ResultError(f"{path} is cut short or no JSON ({one_line(problem)}); run it again")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{one_line(text, 20)} is not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > 19:  # beyond 64 bits
        raise ValueError(f"{one_line(text, 20)} is too large a number")
    return int(text)


def _check_depth(value: object) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(JSON_DEPTH):
        below = (x.values() if isinstance(x, dict) else x for x in level)
        level = [y for x in below for y in x if isinstance(y, dict | list)]
        if not level:
            return
    raise ValueError(f"nested more than {JSON_DEPTH} levels deep")


def validate_result(result: object) -> None:
    """Check against the package's JSON schema.

    Raises:
        ResultError: names the first key that is wrong.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(result_schema()).iter_errors(result))
    if error is not None:
        place = ".".join(str(key) for key in error.absolute_path) or "the whole"
        raise ResultError(f"{RESULT}, {one_line(place)}: {one_line(error.message)}")


@cache
def result_schema() -> dict[str, Any]:
    """The JSON schema of `result.json`, as shipped with the package."""
    schema: dict[str, Any] = json.loads(files("mmrec").joinpath("result.schema.json").read_text())
    return schema


def epoch_of(metrics: Mapping[str, float]) -> int | None:
    """The epoch that logged metrics belong to; None: they are of test, or of no epoch."""
    epoch = metrics.get("epoch")
    tested = any(name.startswith("test/") for name in metrics)
    return None if epoch is None or tested else int(epoch)


def metrics_table(metrics: Mapping[str, float], names: Sequence[str] = ("recall", "ndcg")) -> str:
    """A small table for people: a row a split and metric, a column a cutoff."""
    cutoffs = sorted({int(name.rpartition("@")[2]) for name in metrics})
    head = " " * 18 + "".join(f"{f'@{k}':>9}" for k in cutoffs)
    rows = [
        f"{split + '/' + name:<18}"
        + "".join(f"{metrics[f'{split}/{name}@{k}']:>9.4f}" for k in cutoffs)
        for split in ("val", "test", "test_warm", "test_all")
        for name in names
        if f"{split}/{name}@{cutoffs[0]}" in metrics
    ]
    return "\n".join([head, *rows])
