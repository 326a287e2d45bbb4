"""Ranked lists from a run: `python -m mmrec.recommend run=outputs/... output=recs.parquet`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import hydra
from omegaconf import DictConfig

from mmrec.app import answer, import_torchmetrics, launch, output_file
from mmrec.config import ConfigError, conf_dir
from mmrec.paths import expand, replace_file
from mmrec.results import locate_run
from mmrec.text import printable, spreadsheet_frame

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from mmrec.data import Corpus, Modality
    from mmrec.runs import OpenRun

log = logging.getLogger(__name__)
Seen = Literal["train", "train+val", "none"]
Role = Literal["user_id", "user"]  # the data's own ids, or 0..U-1
LENGTH = 20  # of a list
MANY = 100_000  # users, among whom the nearest name takes too long to find


def main() -> None:
    """The command."""
    launch(_main, "recommend")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="recommend")
def _main(config: DictConfig) -> None:
    answer(config, "mmrec.recommend.recommend", recommend)


def recommend(
    *,
    run: str | Path,
    output: str,
    k: int | None = None,
    users: str | Path | int | Sequence[str | int] | None = None,
    items: str | None = None,
    seen: Seen = "train+val",
    block: int = 512,
    accelerator: Literal["auto", "cpu", "gpu"] = "auto",
    data_root: str | None = None,
    trust: str | Sequence[str] = (),
) -> Path:
    """Write the k best items of each user, best first.

    A row is `user`, `item`, `rank` (from 1) and `score`, then `user_id` and `item_id` where the
    data have ids of their own. A user with fewer than k candidates has fewer rows.

    Args:
        run: its folder, its `result.json`, or one of its checkpoints.
        output: a `.parquet`, `.csv` or `.jsonl` file; it is there whole or not at all.
        k: length of the lists; None: 20, or as many items as there are.
        users: ids of users, or one number, the data's own where there are any; or a table of them,
            as text or Parquet, with a column `user_id` (those ids) or `user` (0..U-1); None:
            everybody.
        items: a folder with `<modality>_feat.npy` of items that came after training, a row an item,
            and perhaps `i_id_mapping.csv`; they alone are ranked. None: the catalogue.
        seen: what is no candidate; nobody has seen new items.
        block: users that are scored at a time; bounds the memory.
        accelerator: what to compute on.
        data_root: the folder of data sets; None: the run's own if it is there, else `MMREC_DATA`.
        trust: modules outside mmrec that the run may import; needed once for each.

    Returns:
        The output file.

    Raises:
        ConfigError: a setting cannot be.
        ResultError: the folder is no whole run.
        DataError: the data are not those of the run, a user is unknown, or new items do not look
            as those that the model has learned from.
        NonFiniteScores: a score is NaN or infinite.
    """
    path = output_file("output", output, [".parquet", ".csv", ".jsonl"])
    for name, value in (("k", k), ("block", block)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value}: expected 1 or more")
    if isinstance(users, str) and not expand(users).exists():
        raise ConfigError(f"users={users}: there is no such file; ids have brackets, [{users}]")
    locate_run(run)  # before torch is loaded, which takes seconds
    import_torchmetrics()

    import polars as pl

    from mmrec.runs import open_run

    sinks: dict[str, Callable[..., Any]] = {
        ".parquet": pl.LazyFrame.sink_parquet,
        ".csv": pl.LazyFrame.sink_csv,
        ".jsonl": pl.LazyFrame.sink_ndjson,
    }
    opened = open_run(run, trust=trust, data_root=data_root)
    offer = _offer(opened.corpus, expand(items) if items else None)
    if k is None:
        k = min(LENGTH, offer.n_items)
    if k > offer.n_items:
        what = f"there are {offer.n_items} new" if items else f"the catalogue has {offer.n_items}"
        raise ConfigError(f"k={k}: {what} items; give at most that many")
    if users is None or isinstance(users, str | Path):
        chosen = _users(expand(users) if users else None, opened.corpus)
    else:
        chosen = named_users(users, opened.corpus)
    cold = int((opened.corpus.user_counts()[chosen] == 0).sum())
    if cold:
        log.warning(
            "%d of %d users have no train interaction; they are ranked as the model scores them",
            cold,
            len(chosen),
        )
    with (
        TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder,
        replace_file(path) as part,
    ):
        parts = []
        lists = ranked_lists(opened, chosen, k, seen, block, accelerator, offer)
        for number, frame in enumerate(lists):
            parts.append(Path(folder, f"{number}.parquet"))
            frame.write_parquet(parts[-1])
        table = pl.scan_parquet(parts, glob=False)
        sinks[path.suffix](spreadsheet_frame(table) if path.suffix == ".csv" else table, part)
    if offer.new is not None:
        _warn_of_gaps(offer.new, opened.corpus, items)
    log.info("%d users, lists of %d: %s", len(chosen), k, path)
    return path


class Ranked(NamedTuple):
    """What is ranked.

    Attributes:
        n_items: N.
        ids: [N] original ones, if they differ from 0..N-1.
        new: content of items that came after training; None: the catalogue.
    """

    n_items: int
    ids: pl.Series | None
    new: Mapping[str, Modality] | None


def _offer(corpus: Corpus, folder: Path | None) -> Ranked:
    """The catalogue, or the new items of a folder."""
    from mmrec.data import read_items

    if folder is None:
        return Ranked(corpus.n_items, corpus.item_ids, None)
    new, ids = read_items(folder)
    if corpus.modalities.keys() < new.keys():  # where one is lacking, another may be misspelt
        more = [name for name in new if name not in corpus.modalities]
        log.warning("not read, as the model has not learned from them: %s", ", ".join(more))
        new = {name: new[name] for name in corpus.modalities}
    return Ranked(len(next(iter(new.values())).features), ids, new)


def _warn_of_gaps(new: Mapping[str, Modality], corpus: Corpus, folder: str | None) -> None:
    """Say which modalities new items lack, and how many have nothing to be ranked by."""
    import torch

    from mmrec.data.files import FEATURES

    if lacking := [name for name in corpus.modalities if name not in new]:
        files = ", ".join(f"{name}{FEATURES}" for name in lacking)
        log.warning("%s: new items lack %s; there is no %s", folder, ", ".join(lacking), files)
    present = torch.stack([m.present for m in new.values()], 1).any(1)  # [N]
    if bare := int((~present).sum()):
        log.warning(
            "%d of %d new items have no content, the first of them in row %d; they rank as the "
            "model's mean item",
            bare,
            len(present),
            int((~present).nonzero()[0]),
        )


def ranked_lists(
    opened: OpenRun,
    users: Tensor,
    k: int,
    seen: Seen,
    block: int,
    accelerator: str,
    offer: Ranked | None = None,
) -> Iterator[pl.DataFrame]:
    """What `recommend` writes, a block of users at a time."""
    import polars as pl

    from mmrec.checks import check_choice
    from mmrec.data.datamodule import QueryLoader
    from mmrec.nn import History
    from mmrec.protocol import seen_interactions
    from mmrec.runs import scored

    check_choice(Seen, "recommend", seen=seen)

    corpus = opened.corpus
    offer = offer or _offer(corpus, None)
    history = History(seen_interactions(corpus, "test", seen), corpus.n_users, corpus.n_items)
    queries = QueryLoader(users, block)
    for batch, scores in scored(opened, queries, accelerator=accelerator, items=offer.new):
        scores = scores.float()
        mask = None
        if offer.new is None:
            mask = history.to(batch.device)(batch).to_sparse_coo().indices()  # [2, N]
        ranked = best_items(scores, batch, k, mask)
        row, place = (ranked >= 0).nonzero(as_tuple=True)
        item = ranked[row, place]
        columns = {"user": batch[row], "item": item, "rank": place + 1, "score": scores[row, item]}
        frame = pl.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
        for name, ids in (("user", corpus.user_ids), ("item", offer.ids)):
            if ids is not None:
                frame = frame.with_columns(ids.gather(frame[name]).alias(f"{name}_id"))
        yield frame


def best_items(scores: Tensor, users: Tensor, k: int, mask: Tensor | None = None) -> Tensor:
    """The k best of each row: [B, k]; -1 where there are fewer.

    Args:
        scores: [B, I].
        users: [B], for ties and for what an error says.
        k: length of a list.
        mask: [2, N] rows and items that are no candidates.

    Raises:
        NonFiniteScores: a score is NaN or infinite.
    """
    import torch

    from mmrec.evaluation import check_finite
    from mmrec.metrics import rank_items

    check_finite(users, scores, "the model has diverged: recommend from another run")
    if mask is not None:
        scores = scores.index_put(tuple(mask), scores.new_tensor(-torch.inf))
    return rank_items(scores, users, k)


def _users(path: Path | None, corpus: Corpus) -> Tensor:
    """The users of a file, each once and in its order; without a file, everybody."""
    import torch

    from mmrec.data import DataError
    from mmrec.data.tables import read_table

    if path is None:
        return torch.arange(corpus.n_users)
    table = read_table(path)
    role: Role = "user_id" if "user_id" in table.frame.columns else "user"
    remedy = "name the column user_id (ids of the data's own) or user (0..U-1)"
    column = table.columns({role: role}, remedy=remedy)[role]
    if not len(column.text):
        raise DataError(f"{path}: there is no user in it; leave users= out for everybody")
    found = _indices(column.text, corpus, role)
    unknown = column.text.filter(found.is_null()).drop_nulls()
    hint = _nearest_user(unknown[0], corpus, role) if len(unknown) else ""
    column.reject(found.is_null(), f"a {role} of {corpus.name}{hint}")
    return found.unique(maintain_order=True).to_torch()


def named_users(names: int | Sequence[str | int], corpus: Corpus) -> Tensor:
    """Indices of the users who are asked for, each once and in this order.

    Raises:
        ConfigError: nobody, or somebody who is unknown.
    """
    import polars as pl

    names = [names] if isinstance(names, int) else names
    if not names:
        raise ConfigError("users=[]: name one, or leave the setting out")
    asked = pl.Series("id", [str(name) for name in names])
    found = _indices(asked, corpus, "user_id")
    if found.has_nulls():
        name = asked.filter(found.is_null())[0]
        hint = _nearest_user(name, corpus, "user_id")
        raise ConfigError(f"users={name}: {corpus.name} has no such user{hint}")
    return found.unique(maintain_order=True).to_torch()


def _indices(asked: pl.Series, corpus: Corpus, role: Role) -> pl.Series:
    """Of users by their names, as text; null where there is no such user."""
    import polars as pl

    index = pl.DataFrame({"id": _names(corpus, role)}).with_row_index("index")
    found = pl.DataFrame({"id": asked}).join(index, on="id", how="left", maintain_order="left")
    return found["index"].cast(pl.Int64)


def _names(corpus: Corpus, role: Role) -> pl.Series:
    """What users are called, as text: by the data's own ids, if they are asked for and there."""
    import polars as pl

    own = corpus.user_ids if role == "user_id" else None
    return (pl.arange(corpus.n_users, eager=True) if own is None else own).cast(pl.String)


def _nearest_user(name: str, corpus: Corpus, role: Role) -> str:
    """What an error adds about a user who is unknown."""
    if role == "user" or corpus.user_ids is None:
        return f"; they are 0 to {corpus.n_users - 1}"
    if corpus.n_users > MANY:
        return ""
    near = difflib.get_close_matches(name, _names(corpus, role))
    return f"; did you mean {' or '.join(map(printable, near))}?" if near else ""


if __name__ == "__main__":
    main()
