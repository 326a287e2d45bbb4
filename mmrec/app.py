"""What the commands share: a Hydra application whose user errors are one line.

Nothing heavy is imported here, so that `--help` and tab completion answer at once.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import select
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrec.config import (
    TARGET,
    ConfigError,
    check_call,
    conf_dir,
)
from mmrec.home import with_home
from mmrec.hydra_errors import explain, instead
from mmrec.paths import expand
from mmrec.text import log_text
from mmrec.trust import leave_run_folders
from mmrec.words import prepared, refuse_numbers

if TYPE_CHECKING:
    from omegaconf import DictConfig

FULL_ERROR = "HYDRA_FULL_ERROR"


def launch(main: Callable[[], None], config_name: str) -> None:
    """Run a Hydra main; turn what a user can mend into one line on stderr and exit status 1.

    With `HYDRA_FULL_ERROR=1` in the environment, and for what is our mistake, there is a traceback.
    """
    leave_run_folders()
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    mendable = (
        HydraException | OmegaConfBaseException | YAMLError | ValueError | ArithmeticError | OSError
    )
    sys.argv[1:] = prepared(with_home(sys.argv[1:]))
    full_error = os.environ.get(FULL_ERROR)
    wants_traceback = full_error == "1"  # as in Hydra
    keep_freed_memory()
    raised_before = logging.raiseExceptions
    logging.raiseExceptions = wants_traceback  # as where nobody reads what is said any more
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # what it tells, the error says
    os.environ[FULL_ERROR] = "1"  # so that Hydra hands us its errors instead of printing them
    make_record = logging.getLogRecordFactory()
    logging.setLogRecordFactory(_printable_records(make_record))
    try:
        many = {"-m", "--multirun"} & {*sys.argv}
        for word in sys.argv[1:]:
            group, _, choice = word.partition("=")
            if many and group == "run_dir":
                raise ValueError(
                    f"{word}: run_dir applies to a single run; use hydra.sweep.dir with -m"
                )
            if choice.startswith("_") and (conf_dir() / group / f"{choice}.yaml").is_file():
                raise ValueError(
                    f"{word}: {choice} is only used inside other files{instead(group, choice)}"
                )
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (Exception, SystemExit) as raised:
        if isinstance(raised, BrokenPipeError) and nobody_reads():
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
            message = explain(reason, config_name)
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


def nobody_reads() -> bool:
    """Whether who reads our output has had enough, as `| head` has; then it goes nowhere."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(sys.stdout, 0)  # what is broken is told of in any case
    gone = bool(poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python flushes again
    return gone


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
        ConfigError: not the settings of data, or not text.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"data={data}: the run has its data; data.root= says where they are now")
    root = data.get("root")
    if root is not None and not isinstance(root, str):
        raise ConfigError(f"data.root={root}: expected the folder of data sets")
    if "columns" not in data:
        return {"data_root": root}
    columns = data["columns"]
    title = columns.get("title") if isinstance(columns, Mapping) else columns
    if (title is not None and not isinstance(title, str)) or not isinstance(columns, Mapping):
        raise ConfigError(f"data.columns.title={title}: expected a column of items.csv")
    return {"data_root": root, "title": title}


def output_file(option: str, name: str, suffixes: Iterable[str]) -> Path:
    """A file that is to be written, checked before the work for it begins.

    Raises:
        ConfigError: another kind of file, or no folder to write it to.
    """
    path = expand(name)
    if path.suffix not in suffixes:
        raise ConfigError(f"{option}={name}: expected a name that ends in {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise ConfigError(f"{option}={name}: there is no folder {path.parent}; make it first")
    return path


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, and use it again, where it can be told (glibc).

    By default it gives each large tensor back to the system. A training step on a CPU makes the
    same tensors again and again, and would spend half its time on the page faults of new memory.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**24)  # larger ones would leave holes in the heap


def leave_memory_unfilled() -> None:
    """Let torch leave new tensors as they are where it is deterministic.

    Filling each with NaN finds bugs in kernels, and costs a pass over memory.
    """
    import torch

    # The name stands on an object that torch puts in the place of the module.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


OTHER_FIELDS = {
    *("librosa", "matplotlib", "nltk", "onnxruntime"),
    *("scipy", "torchaudio", "torchvision", "transformers"),
}  # what torchmetrics imports, where it is installed, for metrics that are none of ours


def import_torchmetrics() -> None:
    """Import torchmetrics, and what is built on it later, without packages for other fields.

    Where SciPy and matplotlib are installed, it imports all of matplotlib.pyplot and scipy.signal:
    two seconds and 100 MiB of each process, for metrics of sound and for `Metric.plot`; where
    transformers is, all of that too. They stay ready for who imports them afterwards. For commands
    only: a library does not meddle.
    """
    if "torchmetrics" in sys.modules:
        return
    import torch  # noqa: F401  (it is to see what there is)
    from lightning_utilities.core import imports

    hidden = OTHER_FIELDS - sys.modules.keys()

    def version(name: str) -> str:
        if name in hidden:
            raise PackageNotFoundError(name)
        return installed_version(name)

    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    imports._version = version  # type: ignore[attr-defined,assignment]
    try:
        import torchmetrics  # noqa: F401
    finally:
        imports._version = installed_version  # type: ignore[attr-defined]
        for name in hidden:
            del sys.modules[name]
        imports.package_available.cache_clear()
        imports.module_available.cache_clear()


def forget_peak_memory() -> None:
    """Let this process's peak begin anew, for the next run in it; on Linux, as far as it can be."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
