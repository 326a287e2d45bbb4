"""Runs that the commands which read runs share."""

from __future__ import annotations

import polars as pl
import pytest

from mmrec.commands.run import run

TINY = ("trainer=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false")


@pytest.fixture(scope="module")
def run_of(composed, tmp_path_factory):
    """`run_of(model)`: the folder of a run of it, on a small planted world, trained once."""
    root = tmp_path_factory.mktemp("runs")
    world = ("data.world.users=60", "data.world.items=50", "data.world.widths=4")

    def folder(model):
        if not (root / model).exists():
            more = ("data.split=leave_one_out", "model.dim=8") if model == "sasrec" else ()
            run(composed(f"model={model}", *more, *world, *TINY, f"run_dir={root / model}"), [])
        return root / model

    return folder


@pytest.fixture(scope="module")
def shop_run(composed, tmp_path_factory):
    """A run of factors on data whose items have names, and titles that begin like a formula."""
    root = tmp_path_factory.mktemp("data")
    (root / "shop").mkdir()
    rows = [(f"u{user}", f"{(user + step) % 8}_0") for user in range(8) for step in range(5)]
    table = pl.DataFrame(rows, schema=["userID", "itemID"], orient="row")
    table.write_csv(root / "shop" / "shop.csv")
    items = {"itemID": [f"{n}_0" for n in range(8)], "title": [f"@book {n}" for n in range(8)]}
    pl.DataFrame(items).write_csv(root / "shop" / "items.csv")
    words = ("model=bpr", "data=folder", "data.name=shop", f"data.root={root}", *TINY)
    cutoffs = ("data.split=random_per_user", "evaluation.cutoffs=[5]", "monitor=val/recall@5")
    run(composed(*words, *cutoffs, f"run_dir={root / 'run'}"), [])
    return root / "run"
