"""Start of each command: a Hydra application that reports user errors in one line.

Nothing heavy is imported here, so that `--help` and tab completion answer at once.
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
FOLDERS = ("run_dir", "hydra.run.dir", "hydra.sweep.dir")  # which Hydra creates
LONGEST_NAME = 255


def launch(main: Callable[[], None], config_name: str) -> None:
    """Run a Hydra main; turn what a user can mend into one line on stderr and exit status 1.

    Bugs, and all errors with `HYDRA_FULL_ERROR=1` in the environment, show a traceback.
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
    logging.raiseExceptions = wants_traceback  # not if stdout was closed early
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # what it tells, the error says
    os.environ[FULL_ERROR] = "1"  # so that Hydra hands us its errors instead of printing them
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
                    problem=f"a file system takes names of at most {LONGEST_NAME} bytes",
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
        # A task gives its error to a SystemExit to carry past Hydra, which announces it otherwise.
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
    """Log records whose messages cannot send commands to a terminal, as a name in a file could."""

    def printable(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        with suppress(TypeError, ValueError):  # logging itself reports a wrong format
            record.msg, record.args = log_text(record.getMessage()), None
        return record

    return printable


def answer(config: DictConfig, name: str, command: Callable[..., object]) -> None:
    """Call what a command does with its settings, once they are checked against its signature.

    Args:
        config: the settings, and nothing else.
        name: the function's full one, as the command may be `__main__`.
        command: the function.

    Raises:
        SystemExit: it failed; the cause is what `launch` tells of.
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
        raise SystemExit(1) from error  # passes Hydra, which would announce it a second time


def _of_data(data: object) -> dict[str, str | None]:
    """Arguments of a command that opens a run: its settings of data.

    Raises:
        SettingError: not the settings of data, or not text.
    """
    if not isinstance(data, Mapping):
        raise SettingError(
            setting="data",
            value=data,
            problem="the run has its data",
            hint="data.root= says where they are now",
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
    """A file that is to be written, checked before the work for it begins.

    Raises:
        SettingError: another kind of file, or no folder to write it to.
    """
    path = expand(name)
    if path.suffix not in suffixes:
        raise SettingError(
            setting=option, value=name, expected=f"a name that ends in {', '.join(suffixes)}"
        )
    if not path.parent.is_dir():
        raise SettingError(
            setting=option,
            value=name,
            problem=f"there is no folder {path.parent}",
            hint="make it first",
        )
    return path
