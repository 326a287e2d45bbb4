"""Start of each command: a Hydra application that reports user errors in one line.

This module imports nothing heavy, so that `--help` and tab completion are fast.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec.config.errors import SettingError
from mmrec.config.hydra_errors import explain_error, instead
from mmrec.config.paths import expand
from mmrec.config.schema import TARGET, check_call, conf_dir
from mmrec.config.startup import keep_freed_memory, rewrite_arguments, stdout_is_closed
from mmrec.config.text import log_text
from mmrec.config.words import refuse_numbers
from mmrec.training.trust import leave_run_folders

if TYPE_CHECKING:
    from omegaconf import DictConfig

FULL_ERROR = "HYDRA_FULL_ERROR"
FOLDERS = ("run_dir", "hydra.run.dir", "hydra.sweep.dir")  # folders that Hydra creates
LONGEST_NAME = 255


def launch(main: Callable[[], None], config_name: str) -> None:
    """Run a Hydra main function; report user errors in one line on stderr with exit status 1.

    Other errors show a traceback, and so do all errors if `HYDRA_FULL_ERROR=1` is set.

    Args:
        main: function decorated with `hydra.main`.
        config_name: name of its configuration file.
    """
    leave_run_folders()
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    mendable = (
        HydraException | OmegaConfBaseException | YAMLError | ValueError | ArithmeticError | OSError
    )
    rewrite_arguments()
    keep_freed_memory()
    full_error = os.environ.get(FULL_ERROR)
    wants_traceback = full_error == "1"  # as in Hydra
    raised_before = logging.raiseExceptions
    logging.raiseExceptions = wants_traceback  # otherwise ignore a closed stdout
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # the error says the same
    os.environ[FULL_ERROR] = "1"  # makes Hydra raise its errors instead of printing them
    make_record = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_printable_records(make_record))
    try:
        many = {"-m", "--multirun"} & {*sys.argv}
        for word in sys.argv[1:]:
            group, _, choice = word.partition("=")
            if many and group == "run_dir":
                raise SettingError(
                    setting=group,
                    value=choice,
                    problem="it applies to a single run",
                    hint="use hydra.sweep.dir with -m",
                )
            if group in FOLDERS and max(map(len, os.fsencode(choice).split(b"/"))) > LONGEST_NAME:
                raise SettingError(
                    setting=group,
                    value=f"{choice[:40]}...",
                    problem=f"a name in this path is longer than {LONGEST_NAME} bytes",
                    hint="give a shorter name",
                )
            if choice.startswith("_") and (conf_dir() / group / f"{choice}.yaml").is_file():
                raise SettingError(
                    setting=group,
                    value=choice,
                    problem=f"it is only used inside other files{instead(group, choice)}",
                )
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (Exception, SystemExit) as raised:
        if isinstance(raised, BrokenPipeError) and stdout_is_closed():
            sys.exit(141)
        # The task wraps its error in a SystemExit, because Hydra would log any other exception.
        error = (isinstance(raised, SystemExit) and raised.__cause__) or raised
        reason = error
        while isinstance(reason, InstantiationException) and reason.__cause__:
            reason = reason.__cause__
        ours = not isinstance(error, mendable) or isinstance(reason, TypeError | AssertionError)
        if ours or wants_traceback:
            raise error from error.__cause__
        if isinstance(reason, HydraException | OmegaConfBaseException):
            message = explain_error(reason, config_name)
        else:
            message = " ".join(str(reason).split())
        logging.shutdown()
        sys.exit(f"error: {log_text(message)}  ({FULL_ERROR}=1 shows where)")
    finally:
        logging.setLogRecordFactory(make_record)
        del os.environ[FULL_ERROR]
        if full_error is not None:
            os.environ[FULL_ERROR] = full_error
        logging.raiseExceptions = raised_before


def _printable_records(
    make_record: Callable[..., logging.LogRecord],
) -> Callable[..., logging.LogRecord]:
    """Make log records without control characters, which a name in a file could contain."""

    def printable(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        with suppress(TypeError, ValueError):  # logging itself reports a wrong format
            record.msg, record.args = log_text(record.getMessage()), None
        return record

    return printable


def answer(config: DictConfig, name: str, command: Callable[..., object]) -> None:
    """Check settings against the signature of a function, and call it.

    Args:
        config: settings of the command.
        name: full dotted name of the function; the module may be `__main__`.
        command: the function.

    Raises:
        SystemExit: the function failed; `launch` reports the cause.
    """
    from omegaconf import OmegaConf

    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        refuse_numbers(plain)
        if "data" in plain:
            plain |= _of_data(plain.pop("data"))
        check_call({TARGET: name, **plain}, "")
        command(**plain)
    except Exception as error:
        raise SystemExit(1) from error  # Hydra would log any other exception a second time


def _of_data(data: object) -> dict[str, str | None]:
    """Convert the `data` settings of a command that opens a run to arguments.

    Raises:
        SettingError: `data` is not a mapping, or a value is not text.
    """
    if not isinstance(data, Mapping):
        raise SettingError(
            setting="data",
            value=data,
            problem="the data set is fixed by the run",
            hint="use data.root if its folder has moved",
        )
    root = data.get("root")
    if root is not None and not isinstance(root, str):
        raise SettingError(setting="data.root", value=root, expected="the folder of data sets")
    if "columns" not in data:
        return {"data_root": root}
    columns = data["columns"]
    title = columns.get("title") if isinstance(columns, Mapping) else columns
    if (title is not None and not isinstance(title, str)) or not isinstance(columns, Mapping):
        raise SettingError(
            setting="data.columns.title", value=title, expected="a column of items.csv"
        )
    return {"data_root": root, "title": title}


def output_file(option: str, name: str, suffixes: Iterable[str]) -> Path:
    """Check the path of an output file before any work begins.

    Args:
        option: name of the setting.
        name: path given by the user.
        suffixes: allowed suffixes.

    Raises:
        SettingError: the suffix is not allowed, or the parent folder does not exist.
    """
    path = expand(name)
    if path.suffix not in suffixes:
        raise SettingError(
            setting=option, value=name, expected=f"a file name that ends in {', '.join(suffixes)}"
        )
    if not path.parent.is_dir():
        raise SettingError(
            setting=option,
            value=name,
            problem=f"no such folder: {path.parent}",
            hint="create it first",
        )
    return path
