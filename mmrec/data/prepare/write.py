"""Write a prepared data set: each file once, in a folder beside the final one, then move it.

Shape legend: U users, I items, N interactions, F width of a modality.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mmrec.config.bars import working
from mmrec.config.errors import DataError
from mmrec.config.paths import replace_file, reserve_space
from mmrec.data.files import FEATURES, digests
from mmrec.data.prepare.base import Vectors, json_object
from mmrec.data.prepare.cache import enough_room
from mmrec.data.prepare.numbering import Numbered, unwritable
from mmrec.tables.headers import DEFAULTS

MANIFEST = "manifest.json"
DONE = "done.json"
KEPT = "make room and start again, which keeps finished files, or set data.root to another folder"
BLOCK = 2**22  # values that are copied at a time
FORMAT = 1  # of the manifest
OWN = ("card.html", "card.md")  # files of a data set that its manifest does not list


class Staging:
    """A folder in which the files of a data set are collected until all are there.

    A file that is finished is not written again after a restart with the same key.

    Args:
        folder: the final one, `root/name`; the staging folder is `root/.preparing-name/name`.
        key: hash of the settings and files that the content depends on.
        downloaded: hash of what was downloaded from URLs, which the key cannot know.
    """

    def __init__(self, folder: Path, key: str, downloaded: str = "") -> None:
        self.final = folder
        self.root = folder.with_name(f".preparing-{folder.name}")
        self.folder = self.root / folder.name
        self.key = key
        self.done: dict[str, dict[str, Any]] = {}
        record = json_object(self.root / DONE)
        self.record = {"key": key, "downloaded": downloaded}
        self._recover()
        if {name: record.get(name) for name in self.record} == self.record:
            self.done = record["files"]
        elif self.root.exists():
            shutil.rmtree(self.root)
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, make: Callable[[Path], object]) -> None:
        """Write a file, unless a finished one is there.

        Args:
            name: of the file.
            make: writes to the path that it gets.
        """
        path = self.folder / name
        known = self.done.get(name)
        if known and path.is_file() and path.stat().st_size == known["bytes"]:
            return
        with working(f"write {name}"), enough_room(path, KEPT), replace_file(path) as part:
            make(part)
        self.done[name] = {"bytes": path.stat().st_size, "sha256": digests([path])[path]}
        with replace_file(self.root / DONE) as part:
            part.write_text(json.dumps({**self.record, "files": self.done}))

    def finish(self) -> None:
        """Move the folder to its final name, in place of an earlier one.

        Files that this package did not write, for example pictures of the items, are kept.
        """
        if self.final.exists():
            self.final.rename(self.old)
        self.folder.rename(self.final)
        self._keep_additions()
        shutil.rmtree(self.root)

    @property
    def old(self) -> Path:
        """Where an earlier folder is kept while it is replaced."""
        return self.root / "replaced"

    def _recover(self) -> None:
        """Complete or undo a replacement that was interrupted."""
        if not self.old.exists():
            return
        if self.final.exists():
            self._keep_additions()
            shutil.rmtree(self.old)
        else:
            self.old.rename(self.final)

    def _keep_additions(self) -> None:
        """Move what the earlier folder has besides its own files into the final one."""
        if not self.old.exists():
            return
        written = {MANIFEST, *OWN, *json_object(self.old / MANIFEST).get("files", {})}
        for path in sorted(self.old.iterdir()):
            if path.name not in written and not (self.final / path.name).exists():
                path.rename(self.final / path.name)


def write_interactions(staging: Staging, data: Numbered) -> None:
    """Write `<name>.inter` and the original ids.

    Raises:
        DataError: an id has a tab or a line break.
    """
    rows = data.rows.rename(DEFAULTS, strict=False)
    staging.write(f"{staging.final.name}.inter", lambda path: rows.write_csv(path, separator="\t"))
    for role, ids, file in (
        ("user", data.users, "u_id_mapping.csv"),
        ("item", data.items, "i_id_mapping.csv"),
    ):
        if bad := unwritable(ids):
            raise DataError(
                file="interactions",
                column=role,
                found=repr(bad[0]),
                expected="ids without tabs and line breaks",
                hint="rename the ids",
            )
        frame = pl.DataFrame({DEFAULTS[role]: range(len(ids)), "original_id": ids})
        staging.write(file, partial(frame.write_csv, separator="\t", quote_style="never"))


def write_items(staging: Staging, details: pl.DataFrame) -> None:
    """Write `items.csv`, if anything is known of the items."""
    columns = [name for name in details.columns if name != "text"]
    if not columns:
        return
    frame = details.select(columns).insert_column(
        0, pl.Series(DEFAULTS["item"], range(details.height))
    )
    staging.write("items.csv", frame.write_csv)


def write_vectors(staging: Staging, kind: str, vectors: Vectors) -> dict[str, Any]:
    """Write `<kind>_feat.npy` as float32 in the order of items; a missing row is NaN.

    Returns:
        What the manifest says of the modality.
    """
    width = vectors.matrix.shape[1]
    there = vectors.rows >= 0
    if not there.any():
        raise DataError(
            file=vectors.file, problem="no item has a row in it", hint="check the item ids"
        )
    staging.write(f"{kind}{FEATURES}", lambda path: _write_matrix(path, vectors))
    return {
        "width": width,
        "missing": int((~there).sum()),
        "fill": vectors.fill,
        "rows_unused": vectors.unused,
    }


def _write_matrix(path: Path, vectors: Vectors) -> None:
    """Copy rows in the order of the source, which reads its pages once."""
    there = (vectors.rows >= 0).nonzero()[0]
    order = there[vectors.rows[there].argsort(kind="stable")]
    width = vectors.matrix.shape[1]
    step = max(1, BLOCK // width)
    shape = (len(vectors.rows), width)
    with path.open("w+b") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        offset = file.tell()
        size = offset + 4 * shape[0] * width
        reserve_space(file, size)  # a full disk would end the process when the map is written
        file.truncate(size)
    out = np.memmap(path, dtype="<f4", mode="r+", offset=offset, shape=shape)
    total = np.zeros(width)
    starts = range(0, len(order), step)
    with working(f"copy {vectors.file}", len(starts), "blocks") as advance:
        for start in starts:
            items = order[start : start + step]
            block = np.asarray(vectors.matrix[vectors.rows[items]], dtype=np.float32)
            bad = ~np.isfinite(block)
            bad &= ~np.isnan(block).all(axis=1, keepdims=True)
            if bad.any():
                row, column = np.argwhere(bad)[0]
                raise DataError(
                    file=vectors.file,
                    row=int(vectors.rows[items[row]]),
                    column=int(column),
                    found=f"{block[row, column]:g}",
                    expected="a finite float32, or a row of NaN",
                )
            out[items] = block
            total += block.sum(axis=0, dtype=np.float64)
            advance()
    missing = (vectors.rows < 0).nonzero()[0]
    if len(missing):
        out[missing] = total / len(order) if vectors.fill == "mean" else np.nan
    out.flush()


def complete_manifest(staging: Staging, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the manifest with the digests of all files; it has no date and no machine in it."""
    files = dict(sorted(staging.done.items()))
    return {"format": FORMAT, "key": staging.key, **content, "files": files}


def write_manifest(staging: Staging, manifest: Mapping[str, Any]) -> None:
    """Write `manifest.json`."""
    with replace_file(staging.folder / MANIFEST) as part:
        part.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
