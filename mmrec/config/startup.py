"""Process settings of commands, each with its measured benefit.

Only commands call these functions; importing mmrec has no side effects. Measured on one CPU thread
(PyTorch 2.13, x86-64 Linux).
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

from mmrec.config.home import with_home
from mmrec.config.words import prepared

# Optional packages that torchmetrics imports for metrics that are not used here.
OTHER_FIELDS = {
    *("librosa", "matplotlib", "nltk", "onnxruntime"),
    *("scipy", "torchaudio", "torchvision", "transformers"),
}


def rewrite_arguments() -> None:
    """Quote and expand command line arguments that Hydra would parse incorrectly.

    Hydra parses `data.name=1_000` as the number 1000, and rejects `data.root=~/sets` and paths with
    spaces, `+`, `=`, brackets or non-ASCII letters.
    """
    sys.argv[1:] = prepared(with_home(sys.argv[1:]))


def stdout_is_closed() -> bool:
    """Return whether the reader of stdout has exited, for example `| head`; redirect stdout if so.

    Otherwise `mmrec run --help | true` ends with status 1 and `error: [Errno 32] Broken pipe`,
    instead of the usual status 141 without output. A second `flush` does not detect this, because
    Python discards the output that it could not write.
    """
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(sys.stdout, 0)  # a broken pipe is always reported
    closed = bool(poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at exit
    return closed


def keep_freed_memory() -> None:
    """Let the C library reuse freed memory instead of returning it to the system (glibc only).

    Training steps on a CPU allocate the same large tensors repeatedly. An epoch of LightGCN on
    `baby` takes 1.44 s of CPU time instead of 1.66 s. Tensors above 32 MiB, the largest threshold
    of glibc, are always returned.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**25)


def leave_memory_unfilled() -> None:
    """Do not fill new tensors with NaN in PyTorch's deterministic mode.

    Filling detects bugs in kernels but needs a pass over memory: without it, a LightGCN step on
    28,000 nodes takes 17.8 ms instead of 22.7 ms.
    """
    import torch

    # PyTorch replaces this module by an object with the attribute.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def import_torchmetrics() -> None:
    """Import torchmetrics without its optional packages, which can still be imported later.

    Otherwise, it imports matplotlib.pyplot and scipy.signal, for audio metrics and `Metric.plot`.
    Without them, a command starts in 8.6 s instead of 12.2 s, with 428 MiB instead of 515 MiB.
    """
    if "torchmetrics" in sys.modules:
        return
    import torch  # noqa: F401  (PyTorch itself searches for some of these packages)
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
    """Reset the measurement of peak memory for the next run of a multirun (Linux only).

    Otherwise, each run reports at least the peak of all earlier runs: after 300 MiB are allocated
    and freed, the reported peak remains 300 MiB higher.
    """
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
