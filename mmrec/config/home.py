"""Paths on the command line: expand `~`, and quote characters that Hydra rejects.

Shells expand `~` only at the start of a word, so `data.root=~/sets` often reaches the program
unchanged. Hydra rejects `~`, non-ASCII letters, `+`, `=`, `#` and brackets in values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from mmrec.config.paths import expand
from mmrec.config.words import quoted

OF_LOGGER = ("path", "root_dir", "save_dir")
# Settings with a single path; `*` matches a part of the name.
PATHS = (
    *("ckpt", "data.interactions_file", "data.root", "hydra.run.dir", "hydra.sweep.dir"),
    *(f"logger.*.{name}" for name in OF_LOGGER),
    *("output", "per_user", "run", "run_dir", "upstream.root", "upstream.run"),
)
# Settings with a path or URL, or a list of them.
LISTS = ("hydra.searchpath", "hydra.sweeper.storage", "runs", "storages", "sweep.storage")
EITHER = ("exclude", "items", "only", "users")  # a path, or a list of ids
FOLDER_OPTIONS = ("--config-dir", "-cd")
_SAFE = re.compile(r"[A-Za-z0-9_./\-]*")
_TOKEN = re.compile(
    r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,\[\]'"]+(?:\[[^\[\]]*\][^,\[\]'"]*)*"""
)
_HOME = re.compile(r"(^|:///)(~[^/]*)(?=/|$)")


def with_home(words: Sequence[str]) -> list[str]:
    """Return command line arguments with expanded paths, quoted if Hydra requires it.

    With `-m`, a value with commas remains a list of values.
    """
    many = bool({"-m", "--multirun"} & {*words})
    return list(_words(words, many))


def logger_with_home(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a logger with expanded paths."""
    return {
        name: str(expand(value)) if name in OF_LOGGER and isinstance(value, str) else value
        for name, value in settings.items()
    }


def _words(words: Sequence[str], many: bool) -> Iterator[str]:
    before = ""
    for word in words:
        option, _, folder = word.partition("=")
        if before in FOLDER_OPTIONS:
            yield str(expand(word))
        elif option in FOLDER_OPTIONS and folder:
            yield f"{option}={expand(folder)}"
        else:
            yield word if word.startswith("-") else _setting(word, many)
        before = word


def _setting(word: str, many: bool) -> str:
    setting, equals, value = word.partition("=")
    name = setting.lstrip("+~")
    if not value or value == "null" or "${" in value:
        return word
    is_list = value.startswith("[") and value.endswith("]")
    if _is(name, (*PATHS, *EITHER)) and not (is_list or many):
        text = _unquoted(value)
        path = str(expand(text))
        plain = path == text and (text != value or _SAFE.fullmatch(value))
        return word if plain else f"{setting}={quoted(path)}"
    several = is_list or ("," in value and "[" not in value)
    if _is(name, LISTS) and not (many or several):
        path = _with_home(_unquoted(value))
        plain = _SAFE.fullmatch(value) or (value[0] in "'\"" and path == _unquoted(value))
        return word if plain else f"{setting}={quoted(path)}"
    if "~" in value and (_is(name, (*PATHS, *LISTS)) or value.lstrip("'\"").startswith("~/")):
        return f"{setting}{equals}{_TOKEN.sub(_expanded, value)}"
    return word


def _is(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _expanded(found: re.Match[str]) -> str:
    """Expand a value or list element, and quote it if it has changed."""
    text = _unquoted(found[0].strip())
    path = _with_home(text)
    return found[0] if path == text else quoted(path)


def _with_home(text: str) -> str:
    """Replace `~` in a path or file URL by the home folder."""
    return _HOME.sub(lambda home: f"{home[1]}{expand(home[2])}", text)


def _unquoted(value: str) -> str:
    quote = value[:1]
    if len(value) < 2 or quote not in ("'", '"') or value[-1] != quote:
        return value
    return value[1:-1].replace(f"\\{quote}", quote)
