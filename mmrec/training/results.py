"""Results of a run: `result.json` and the other files of the run folder."""

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
JSON_BYTES, JSON_DEPTH = 2**24, 40  # maximum size and nesting depth of JSON files


class ResultError(ValueError):
    """Raised if a run folder is invalid or incomplete."""


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Check a result against the schema, and write `result.json` atomically."""
    validate_result(result)
    with replace_file(folder / RESULT) as part:
        part.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")


def for_a_search(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the validation metrics and costs of a run for a search, without test metrics."""
    return {
        "status": result["status"],
        "metrics": {k: v for k, v in result["metrics"].items() if k.startswith("val/")},
        "seconds": total_seconds(result),
        "peak_rss_mib": result["peak_rss_mib"],
    }


def total_seconds(result: Mapping[str, Any]) -> float:
    """Return the total seconds of a run from its result."""
    return math.fsum(result["seconds"][name] or 0.0 for name in ("setup", "fit", "test"))


def locate_run(path: str | Path) -> tuple[Path, Path]:
    """Return the folder and the checkpoint of a run.

    Args:
        path: run folder or its `result.json`, for the best checkpoint; or a checkpoint in it.

    Raises:
        ResultError: the folder is not a run folder.
    """
    path = expand(path)
    folder = path.parent if path.name == RESULT else path
    checkpoint = folder / BEST
    if path.suffix == ".ckpt":
        checkpoint = path.absolute()
        folder = checkpoint.parent.parent
    if not (folder / CONFIG).is_file():
        raise ResultError(
            f"{folder} is not a run folder: it has no {CONFIG}; expected a folder like outputs/..."
        )
    return folder, checkpoint


def read_epochs(path: Path) -> pl.DataFrame:
    """Read `metrics.csv`, with one row per epoch and null for missing values.

    Column types are inferred from all rows, because the first validation may be late.
    """
    import polars as pl

    return pl.read_csv(path, infer_schema_length=None, glob=False)


def to_continue(folder: Path) -> str:
    """Return the command that resumes an interrupted run."""
    words = read_overrides(folder)
    if words is None:  # runs of old versions have no such file
        return f"its original overrides with run_dir={folder} and ckpt=last"
    kept = [word for word in words if not word.startswith(("run_dir=", "ckpt="))]
    line = shlex.join([*kept, f"run_dir={folder}", "ckpt=last"])
    return f"python -m mmrec.run {one_line(line, 4000)}"


def table_error(path: Path, error: object) -> ResultError:
    """Return the error for an unreadable table of a run."""
    return ResultError(f"{path} cannot be read ({one_line(error)}); run it again")


def read_config(folder: Path) -> dict[str, Any]:
    """Read the `config.yaml` of a run, without trusting its content.

    Removed settings are dropped if they have the value that is still implemented.

    Raises:
        ResultError: the file is unreadable, has other than plain values, or is not a mapping.
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
    """Read the `overrides.yaml` of a run; None if it is missing or malformed."""
    try:
        words = read_yaml(folder / OVERRIDES)
    except (OSError, YamlFileError):
        return None
    return [str(word) for word in words] if isinstance(words, list) else None


def read_result(folder: Path) -> dict[str, Any]:
    """Read and check `result.json`.

    Raises:
        ResultError: the file is missing, truncated, or does not match the schema.
    """
    path = folder / RESULT
    if not path.is_file():
        what = "expected a run folder like outputs/..."
        if (folder / LAST).is_file():
            what = f"the run has not finished; wait for it, or resume it with {to_continue(folder)}"
        elif (folder / CONFIG).is_file():
            what = "the run has not finished its first epoch, or was killed in it"
        raise ResultError(f"{folder} has no {RESULT}; {what}")
    result = read_json(path)
    validate_result(result)
    assert isinstance(result, dict)
    return result


def read_json(path: Path) -> Any:
    """Read JSON without trusting its content.

    Raises:
        ResultError: the file is larger than 16 MiB, nested more than 40 levels deep, not JSON, or
            contains a number that is not finite.
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
    raise ResultError(f"{path} is truncated or not JSON ({one_line(problem)}); run it again")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{one_line(text, 20)} is not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > 19:  # beyond 64 bits
        raise ValueError(f"the number {one_line(text, 20)} is too large")
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
    """Check a result against the JSON schema.

    Raises:
        ResultError: the result does not match; the message names the most relevant key.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(result_schema()).iter_errors(result))
    if error is not None:
        place = ".".join(str(key) for key in error.absolute_path) or "top level"
        raise ResultError(f"{RESULT}, {one_line(place)}: {one_line(error.message)}")


@cache
def result_schema() -> dict[str, Any]:
    """Return the JSON schema of `result.json`."""
    schema: dict[str, Any] = json.loads(files("mmrec").joinpath("result.schema.json").read_text())
    return schema


def epoch_of(metrics: Mapping[str, float]) -> int | None:
    """Return the epoch of logged metrics; None for test metrics and metrics without an epoch."""
    epoch = metrics.get("epoch")
    tested = any(name.startswith("test/") for name in metrics)
    return None if epoch is None or tested else int(epoch)


def metrics_table(metrics: Mapping[str, float], names: Sequence[str] = ("recall", "ndcg")) -> str:
    """Format metrics as a table with one row per split and metric, and one column per cutoff."""
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
