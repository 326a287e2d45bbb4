"""What the commands share: a Hydra application whose user errors are one line.

Nothing heavy is imported here, so that `--help` and tab completion answer at once.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    nearest,
    unread_search_setting,
)
from mmrec.home import with_home
from mmrec.paths import expand
from mmrec.text import log_text
from mmrec.trust import run_folder_of
from mmrec.words import prepared, refuse_numbers

if TYPE_CHECKING:
    from omegaconf import DictConfig

FULL_ERROR = "HYDRA_FULL_ERROR"
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


def launch(main: Callable[[], None], config_name: str) -> None:
    """Run a Hydra main; turn what a user can mend into one line on stderr and exit status 1.

    With `HYDRA_FULL_ERROR=1` in the environment, and for what is our mistake, there is a traceback.
    """
    _leave_run_folders()
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
                    f"{word}: {choice} is only used inside other files{_instead(group, choice)}"
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
            message = _explain(reason, config_name)
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


def _leave_run_folders() -> None:
    """Import nothing from a run folder, where Hydra would execute each `hydra_plugins` module."""
    sys.path[:] = [entry for entry in sys.path if run_folder_of(Path(entry)) is None]


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
            plain["data_root"] = _data_root(plain.pop("data"))
        check_call({TARGET: name, **plain}, "")
        command(**plain)
    except Exception as error:
        raise SystemExit(1) from error  # passes Hydra, which would announce it a second time


def _data_root(data: object) -> str | None:
    """The value of `data.root`, for a command that opens a run.

    Raises:
        ConfigError: another setting, or not a text.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"data={data}: the run has its data; data.root= says where they are now")
    root = data.get("root")
    if root is not None and not isinstance(root, str):
        raise ConfigError(f"data.root={root}: expected the folder of data sets")
    return root


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


def _explain(error: BaseException, config_name: str) -> str:
    """One line for Hydra's own errors, with the nearest valid names."""
    text = str(error)
    if found := re.search(r"(?:Could not find|In .*: Could not find) '([^']+)'", text):
        group, _, choice = found[1].rpartition("/")
        if group == "hydra/launcher" and choice in EXTRAS:
            return f"{group}={choice} needs a package: pip install 'mmrec[{EXTRAS[choice]}]'"
        return f"{group}={choice}: there is no conf/{found[1]}.yaml" + _instead(group, choice)
    if found := re.search(r"Could not (?:override|append to config|delete) '([^']+)'", text):
        key = found[1].split("@")[0]
        group, dot, _ = key.partition(".")
        chosen = dot and any(word.lstrip("+").startswith(f"{group}=") for word in sys.argv)
        if config_name == "config" and not chosen and (unread := unread_search_setting(key)):
            return unread
        known = _keys(config_name)
        for place in (key, key.rpartition(".")[0]):
            if place in NAMED_BY_DATA:
                return f"{key}: add a key with +, for example {NAMED_BY_DATA[place]}"
        if key in known and config_name == "config":
            return f"{key}: some of the combined choices lack this setting; run them apart"
        if below := [k for k in known if k.startswith(f"{key}.")]:
            return f"{key}: expected one of the settings below it: {', '.join(below)}"
        if config_name == "config" and key in _of_folders():
            return f"{key}: only data sets in folders have this setting; add data=folder"
        if key.startswith("trainer.") and f"+{key}" not in sys.argv and key in _of_trainer():
            return f"{key}: conf/trainer does not set it; add it with +{key}=..."
        elsewhere = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
        return f"{key}: no such setting" + nearest(key, elsewhere or known)
    if found := re.search(r"Ambiguous value for argument '([^=]+)=([^']+,[^']+)'", text):
        key, value = found.groups()
        if config_name == "config" and (key == "seed" or (conf_dir() / key).is_dir()):
            return f"{key}={value}: several values need a multirun: add -m"
        return f"{key}={value}: a list has brackets, {key}=[{value}]; quote a text with commas"
    if found := re.search(r"Error parsing override '([^']*)'\s*missing EQUAL", text):
        return f"{found[1]}: expected a setting and its value, as run=outputs/... or seed=1"
    if re.search(
        r"Ambiguous value|mismatched|extraneous|no viable alternative|token recog|NoViableAlt", text
    ):
        setting, _, value = next(_unreadable(sys.argv[1:]), "").partition("=")
        if value.count("[") > value.count("]"):
            return (
                f"{setting}={value}: a bracket is not closed; a list with spaces needs quotes in a "
                f"shell, as '{setting}=[a, b]'"
            )
        hint = f""", as "{setting}='{value}'" in a shell""" if value else ""
        reason = " ".join(text.partition("See https://")[0].split())
        return f"{reason}; quote values that hold signs or brackets{hint}"
    if "NoneType is incompatible" in text and (found := re.search(r"'([^=' ]+)=", text)):
        return (
            f"{found[1]}: choice() accepts no null inside another function; list the values, as "
            f"{found[1]}=null,1"
        )
    if found := re.search(r"Missing mandatory value: (\S+)", text):
        key = getattr(error, "full_key", None) or found[1]
        return f"{key}: give it a value, as {key}=...; --help says what it may be"
    cause = f": {error.__cause__}" if error.__cause__ else ""
    if found := re.search(r"BasicSweeper.*unexpected keyword argument '(\w+)'", text + cause):
        unread = unread_search_setting(found[1])
        return unread or f"hydra.sweeper.{found[1]}: no such setting"
    return " ".join(f"{text}{cause}".split())


def _unreadable(words: Sequence[str]) -> Iterator[str]:
    """The settings of a command line that Hydra's grammar does not allow."""
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
    """The settings of Lightning's trainer."""
    import inspect

    from lightning import Trainer

    return {f"trainer.{name}" for name in inspect.signature(Trainer.__init__).parameters}


def _of_folders() -> set[str]:
    """The settings of a data set in a folder."""
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(OmegaConf.load(conf_dir() / "data/folder.yaml"), resolve=False)
    assert isinstance(config, dict)
    return {f"data.{path}" for path in _paths(config, "")}


def _instead(group: str, choice: str) -> str:
    there = sorted(_choices(group))
    if group == "data":
        near = nearest(choice, there)
        start = " For" if near.endswith("?") else "; for"
        return f"{near}{start} a folder of your own, give data=folder data.name={choice}"
    if group == "experiment" and choice.endswith("-best"):
        return f"; those of a search are found with --config-dir multirun/{choice[:-5]}"
    return f"; there are {', '.join(there)}" if 0 < len(there) < 9 else nearest(choice, there)


def _choices(group: str) -> list[str]:
    folder = conf_dir() / group
    depth = "*/*.yaml" if group == "ablation" else "*.yaml"
    found = (path.relative_to(folder).with_suffix("") for path in folder.glob(depth))
    return [path.as_posix() for path in found if not path.name.startswith("_")]


def _keys(config_name: str) -> list[str]:
    """Every setting and group of the default composition, plus those of the choices made."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    groups = {p.name for p in conf_dir().iterdir() if p.is_dir() and config_name == "config"}
    chosen = [word for word in sys.argv[1:] if word.split("=")[0] in groups and "," not in word]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            composed = compose(config_name, overrides=chosen)
        except HydraException:  # a choice lies in another folder
            composed = compose(config_name)
    config = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(config, dict)
    return sorted({*_paths(config, ""), *groups})


def _paths(node: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
