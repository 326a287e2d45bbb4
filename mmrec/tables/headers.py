"""Find the interaction file of a data set and check its header, without importing torch.

A misspelt column is reported before anything heavy is imported.
"""

from __future__ import annotations

import difflib
import gzip
import json
import logging
import re
import shlex
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mmrec.config.errors import DataError, SettingError
from mmrec.config.paths import conf_dir, data_root, expand
from mmrec.config.text import printable
from mmrec.tables.separators import chosen_separator, header_advice
from mmrec.tables.shards import is_table, shards

log = logging.getLogger(__name__)

# Column of each role, and the names that other data sets give it (in lower case, letters only).
DEFAULTS = {
    "user": "userID",
    "item": "itemID",
    "time": "timestamp",
    "position": "position",
    "label": "x_label",
}
GUESSES = {
    "user": (
        *("userid", "user", "uid", "username", "reviewerid", "reviewer", "customerid", "customer"),
        *("memberid", "accountid", "visitorid", "viewerid", "listenerid", "readerid", "profileid"),
        *("buyerid", "clientid", "personid", "usertoken", "useridx", "u", "sessionid", "session"),
    ),
    "item": (
        *("itemid", "item", "iid", "movieid", "asin", "parentasin", "productid", "product", "sku"),
        *("bookid", "isbn", "trackid", "songid", "artistid", "videoid", "articleid", "newsid"),
        *("gameid", "appid", "businessid", "recipeid", "contentid", "adid", "itemidx", "i"),
    ),
    "time": (
        *("timestamp", "time", "ts", "datetime", "date", "unixreviewtime", "createdat", "created"),
        *("eventtime", "reviewtime", "ratingtime", "purchasetime", "ratedat", "t"),
    ),
    "position": ("position", "pos", "seqposition", "order", "rank", "step"),
    "label": ("xlabel", "split", "fold", "part", "label"),
    "rating": ("rating", "ratings", "stars", "star", "score", "overall", "rate", "weight"),
}
KINDS = (
    *(".inter", ".csv", ".tsv", ".parquet", ".jsonl"),
    *(".inter.gz", ".csv.gz", ".tsv.gz", ".jsonl.gz"),
)
ENDS = (*KINDS, ".txt", ".dat", ".ndjson")
SIDE_FILES = ("items.csv", "cold_items.csv", "u_id_mapping.csv", "i_id_mapping.csv")
ELSEWHERE = "set MMREC_DATA or data.root to the folder that holds it"
BEGINNING = 2**16  # bytes of a file that show its header
DAMAGE = (OSError, EOFError, ValueError, TypeError, RecursionError, zlib.error)
NEEDS_TIME = ("leave_one_out", "temporal")

# Words in the names of columns that say how much, or in which way, a user liked an item.
STRENGTHS = {
    *("grade", "grades", "mark", "marks", "points", "vote", "votes"),
    *("rating", "ratings", "rate", "star", "stars", "score", "scores", "overall", "weight"),
    *("weights", "preference", "count", "counts", "playcount", "quantity", "qty", "likes"),
}
EVENTS = {
    *("event", "events", "type", "action", "actions", "behavior", "behaviors", "behaviour"),
    *("behaviours", "feedback", "implicit", "explicit", "like", "liked", "click", "clicked"),
    *("follow", "followed", "purchase", "purchased"),
}
OTHER = {"id", "ids", "time", "timestamp", "date", "at"}
SHOWN = 12  # column names that a message lists
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def interactions_file(root: Path, name: str, file: str | None, *, warn: bool = True) -> Path:
    """Find the table of interactions in the folder `root/name`.

    It is a file, or a folder of Parquet files.

    Args:
        root: folder of data sets.
        name: of the data set.
        file: name of the table; None looks for `<name>` with one of `KINDS`, in their order.
        warn: log that there are several.

    Raises:
        DataError: no such folder or file.
    """
    folder = root / name
    if not folder.is_dir():
        sets = sorted(path.name for path in root.glob("[!.]*/"))
        near = difflib.get_close_matches(name, sets, n=1)
        remedy = f"did you mean data.name={near[0]}?" if near else ELSEWHERE
        source = conf_dir() / "prepare" / f"{name}.yaml"
        if source.is_file() and f"\nname: {name}\n" in source.read_text():
            where = "" if root == data_root() else f" {_shell(f'data.root={root}')}"
            remedy = f"make it with `mmrec prepare data={name}{where}`, or {ELSEWHERE}"
        found = ", ".join([*map(printable, sets[:SHOWN]), *["..."] * (len(sets) > SHOWN)])
        raise DataError(
            file=root, problem=f"no data set {name}", found=found or "none", hint=remedy
        )
    files = [file] if file else [f"{name}{kind}" for kind in KINDS]
    existing = [candidate for candidate in files if is_table(folder / candidate)]
    if warn and len(existing) > 1:
        others = ", ".join(existing[1:])
        log.warning(
            "%s: reading %s and not %s; set data.interactions_file to choose",
            folder,
            existing[0],
            others,
        )
    if existing:
        return folder / existing[0]
    if taken := [candidate for candidate in files if (folder / candidate).exists()]:
        raise DataError(
            file=folder / taken[0],
            problem="it is a folder without Parquet files",
            expected="a table of interactions",
        )
    tables = sorted(
        path.name
        for path in folder.iterdir()
        if (path.is_file() and path.name.endswith(ENDS) and path.name not in SIDE_FILES)
        or shards(path)
    )
    remedy = "add the file, or set data.interactions_file to its name"
    if tables:
        remedy = f"set data.interactions_file={_value(tables[0])}"
        remedy += "".join(f", or {other}" for other in tables[1:4])
    expected = files[0] if file else f"{name}.csv, or {name} with another ending of tables"
    raise DataError(file=folder, problem="no interactions", expected=expected, hint=remedy)


def public_sets() -> list[str]:
    """The data sets that `mmrec prepare` makes without further settings."""
    files = sorted((conf_dir() / "prepare").glob("[!_]*.yaml"))
    return [path.stem for path in files if f"name: {path.stem}" in path.read_text().splitlines()]


def check_columns(
    file: str,
    header: Sequence[str],
    columns: Mapping[str, str | None],
    *,
    split: str | None = None,
    min_rating: float | None = None,
    words: Iterable[str] = (),
) -> None:
    """Check that a table of interactions has the columns it needs.

    User and item are needed, and so is any role whose name is not the default. A split in order of
    time also needs a time or a position.

    Args:
        file: as messages name it.
        header: column names in the file; a type as in `user_id:token` is ignored.
        columns: configured column of each role in `GUESSES`; others are ignored.
        split: configured split.
        min_rating: configured filter, which needs a column of ratings.
        words: overrides of the command line; the message then shows the whole corrected command.

    Raises:
        DataError: lists all missing columns, and the settings that name the likely ones.
        SettingError: two of the settings contradict each other.
    """
    if columns["user"] == columns["item"]:
        raise SettingError(
            setting="data.columns.item",
            value=columns["item"],
            problem="data.columns.user has the same",
            hint="give each its own column",
        )
    rating = columns.get("rating")
    if min_rating is None and rating is not None:
        raise SettingError(
            setting="data.columns.rating",
            value=rating,
            problem="it has no effect without data.min_rating",
            hint="set the smallest rating that counts, for example data.min_rating=4",
        )
    known = {_plain(name) for name in header} | {*header}
    asked = {role: name for role, name in columns.items() if role in GUESSES and name is not None}
    missing = {
        role: name
        for role, name in asked.items()
        if not _is_in(name, known) and (role in ("user", "item") or name != DEFAULTS.get(role))
    }
    taken = {_plain(name) for role, name in asked.items() if role not in missing}
    free = [name for name in dict.fromkeys(map(_plain, header)) if name not in taken]
    guesses: dict[str, str] = {}
    for role in GUESSES:
        if role in missing and (guess := _guess(role, missing[role], free)):
            guesses[role] = guess
            free.remove(guess)
    timeless = not any(_is_in(asked.get(role, DEFAULTS[role]), known) for role in _order(split))
    wanted = timeless and "time" not in missing and (missing or split in NEEDS_TIME)
    if wanted and (guess := _guess("time", "", free)):
        guesses["time"] = guess
        if not missing:
            missing["time"] = asked.get("time", DEFAULTS["time"])
    if not missing:
        if min_rating is not None and rating is None:
            likely = _guess("rating", "", free)
            raise DataError(
                file=file,
                problem=f"data.min_rating={min_rating:g} needs the column of ratings",
                found=_listed(header),
                hint=f"set data.columns.rating={_value(likely or 'NAME')}",
            )
        return
    if min_rating is not None and rating is None and (likely := _guess("rating", "", free)):
        guesses["rating"] = likely
    listed = ", ".join(missing.values())
    settings = [
        f"data.columns.{role}={_value(guesses.get(role, 'NAME'))}"
        for role in GUESSES
        if role in missing or role in guesses
    ]
    command = " ".join(map(_shell, settings))
    remedy = f"set {command}"
    if advice := header_advice(header, "data.separator"):
        remedy = advice
    elif words := list(words):
        given = {setting.partition("=")[0] for setting in settings}
        kept = [word for word in words if word.partition("=")[0] not in given]
        remedy = f"run: python -m mmrec.run {shlex.join(kept)} {command}"
    many = "columns" if len(missing) > 1 else "a column"
    raise DataError(file=file, found=_listed(header), expected=f"{many} {listed}", hint=remedy)


def _listed(header: Sequence[str]) -> str:
    """Column names as a message lists them."""
    return ", ".join([*map(printable, header[:SHOWN]), *["..."] * (len(header) > SHOWN)])


def check_data(data: object, words: Iterable[str] = ()) -> None:
    """Check the header of the data set that a configuration names, where that is quick to do.

    Whatever is not a plain table with a readable header is left to the reader of the whole file.

    Args:
        data: the `data` group of a configuration.
        words: overrides of the command line.

    Raises:
        DataError: see `interactions_file` and `check_columns`.
        SettingError: see `check_columns`.
    """
    if not isinstance(data, Mapping):
        return
    name, root, columns = data.get("name"), data.get("root"), data.get("columns")
    file, split = data.get("interactions_file"), data.get("split")
    if data.get("_target_") != "mmrec.data.FolderData" or not isinstance(columns, Mapping):
        return
    names = [value for role, value in columns.items() if role in GUESSES and value is not None]
    texts = all(isinstance(value, str) for value in names)
    if not (
        texts
        and {"user", "item"} <= columns.keys()
        and isinstance(name, str)
        and isinstance(file, str | None)
    ):
        return
    if not isinstance(root, str | None):
        return
    folder = data_root() if root is None else expand(root)
    path = interactions_file(folder, name, file, warn=False)
    header = read_header(path, data.get("separator"))
    if header:
        rating = data.get("min_rating")
        check_columns(
            f"{name}/{path.name}",
            header,
            columns,
            split=split,
            min_rating=rating if isinstance(rating, int | float) else None,
            words=words,
        )


def unused_signals(header: Iterable[str], used: Collection[str]) -> list[str]:
    """Columns whose names say that some interactions are no likes, and that nothing reads.

    Examples are `rating`, `stars:float`, `event_type` and `playCount`.
    """
    found = []
    for name in header:
        words = [word.lower() for word in WORD.findall(_plain(name))]
        strong, event = STRENGTHS.intersection(words), EVENTS.intersection(words)
        if "type" in words and event == {"type"} and len(words) > 1:
            continue
        if (strong or event) and not OTHER.intersection(words) and _plain(name) not in used:
            found.append(name)
    return found


def likely_columns(role: str, header: Iterable[str], used: Collection[str]) -> list[str]:
    """Columns with a usual name of a role, without those that are used."""
    free = (name for name in header if name not in used)
    return [name for name in free if re.sub(r"[^a-z]", "", _plain(name).lower()) in GUESSES[role]]


def _plain(name: str) -> str:
    """Name without its type."""
    return name.split(":")[0]


def _is_in(name: str, known: Collection[str]) -> bool:
    return name in known or _plain(name) in known


def _order(split: str | None) -> tuple[str, ...]:
    """Roles of which a split in order of time needs one."""
    return ("time",) if split == "temporal" else ("time", "position")


def _guess(role: str, name: str, free: Sequence[str]) -> str | None:
    """The column that most likely plays a role."""
    by_letters = {re.sub(r"[^a-z]", "", column.lower()): column for column in reversed(free)}
    for guess in (re.sub(r"[^a-z]", "", name.lower()), *GUESSES[role]):
        if guess and guess in by_letters:
            return by_letters[guess]
    near = difflib.get_close_matches(name, free, n=1, cutoff=0.6) if name else []
    return near[0] if near else None


def _value(name: str) -> str:
    """A column's name as Hydra reads it."""
    if re.fullmatch(r"[A-Za-z_][\w.-]*", name) and name.lower() not in ("null", "true", "false"):
        return name
    return "'" + name.replace("'", "\\'") + "'"


def _shell(word: str) -> str:
    """A word as a shell reads it; Hydra's quotes stay legible within double ones."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _json_keys(content: bytes) -> list[str] | None:
    """Keys of all objects of JSON lines; None if a line is no object."""
    rows = [json.loads(line) for line in content.split(b"\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        return None
    return list(dict.fromkeys(key for row in rows for key in row))


def read_header(path: Path, separator: object = None) -> list[str] | None:
    """Read the column names of a table; None where only the reader of the whole file can tell.

    Args:
        path: of the table.
        separator: as configured; None: detected.
    """
    import polars as pl

    from mmrec.tables.delimited import parse_delimited  # imports NumPy and polars

    kind = Path(path.name.removesuffix(".gz")).suffix
    try:
        if kind == ".parquet" or path.is_dir():
            return list(pl.read_parquet_schema([*shards(path), path][0]))
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            block = file.read(BEGINNING)
        lines = block[: block.rfind(b"\n") + 1] if len(block) == BEGINNING else block
        if kind in (".jsonl", ".ndjson"):
            return None if len(block) == BEGINNING else _json_keys(lines)
        chosen = None if separator is None else chosen_separator("data.separator", separator)
        return parse_delimited(path.name, lines, chosen, "data.separator").frame.columns
    except (*DAMAGE, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
