"""Pictures and recordings of items: where they are, and their features.

Shape legend: I items, M unique files, F width of the features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mmrec.config.bars import working
from mmrec.config.errors import DataError, SettingError
from mmrec.config.paths import expand
from mmrec.config.text import printable
from mmrec.data.corpus import content_hash
from mmrec.data.files import digests
from mmrec.data.prepare import images
from mmrec.data.prepare.base import URL, Places, RawData, RawFile, Vectors
from mmrec.data.prepare.encode import Encoder, Model, encode_items

log = logging.getLogger(__name__)
BLOCK = 128  # files that are encoded before their features are saved
SHOWN = 3  # files that are named in a warning
NOUNS = {"image": "picture", "audio": "recording"}
FOLDERS = {"image": "data.images", "audio": "data.audio"}


@dataclass(frozen=True, kw_only=True)
class WithPictures(RawData):
    """A source without pictures, to which the user adds a folder of them.

    Attributes:
        images: folder of pictures, named by item id and a suffix, for `image_model`.
    """

    images: str | None = None

    def check(self) -> None:
        super().check()
        check_folder("image", self.images, self.image_model)

    def pictures(self) -> dict[str, RawFile]:
        """Return the folder by its role, with the digest of what is in it; empty without one."""
        return {} if self.images is None else {"images": folder_digest(expand(self.images))}

    def places(
        self, modality: str, files: Mapping[str, RawFile], ids: pl.Series, details: pl.DataFrame
    ) -> Places:
        """Return the files that are named by item id."""
        return named_by_id(modality, files["images"].path, ids, images.SUFFIXES)


def check_folder(modality: str, folder: str | None, model: str | None) -> None:
    """Refuse a folder that no model reads or that does not exist, and a model without a folder.

    Args:
        modality: `image` or `audio`.
        folder: of its files.
        model: that reads them.

    Raises:
        SettingError: names the setting.
    """
    setting = f"data.{modality}_model"
    if folder is None and model is not None:
        raise SettingError(
            setting=setting,
            value=model,
            problem="it has no files to read",
            hint=f"set {FOLDERS[modality]} to a folder of files that are named by item id",
        )
    if folder is not None and model is None:
        raise SettingError(
            setting=FOLDERS[modality],
            value=folder,
            problem="no encoder reads these files",
            hint=f"set {setting}",
        )
    if folder is not None and not expand(folder).is_dir():
        raise SettingError(
            setting=FOLDERS[modality], value=folder, problem="there is no such folder"
        )


def folder_files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder and of those below it, by their names relative to it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def folder_digest(folder: Path) -> RawFile:
    """Return a folder with the digest of the names and contents of all files in it."""
    files = folder_files(folder)
    with working(f"digest of {folder.name}"):
        found = digests(files.values())
    return RawFile(folder, content_hash([f"{name}: {found[path]}" for name, path in files.items()]))


def named_by_id(modality: str, folder: Path, ids: pl.Series, suffixes: Collection[str]) -> Places:
    """Find the files that are named by item id, with one of the suffixes; the first of several.

    Args:
        modality: of the files.
        folder: where they are; an id may have slashes, and a file may be in any folder below.
        ids: [I] of the items.
        suffixes: in lower case, with their dots.
    """
    files = {
        name: path for name, path in folder_files(folder).items() if path.suffix.lower() in suffixes
    }
    known: dict[str, Path] = {}
    for name, path in files.items():
        known.setdefault(name.removesuffix(path.suffix), path)
    for path in files.values():
        known.setdefault(path.stem, path)
    found = [known.get(each) for each in ids]
    missing = [item for item, path in zip(ids, found, strict=True) if path is None]
    counted = f"{len(missing):,} of {len(ids):,} items"
    _warn(f"{counted} have no {NOUNS[modality]} in {printable(folder)}", missing)
    return Places(
        _texts([path or "" for path in found]),
        {"not_found": len(missing)},
        len(files) - len({*found} - {None}),
    )


def named_by_column(modality: str, folder: Path | None, names: pl.Series) -> Places:
    """Find the files that a column names, and leave its URLs as they are.

    Args:
        modality: of the files.
        folder: what names are relative to; None: all are URLs.
        names: [I] of files, or URLs; empty where an item has none.

    Raises:
        DataError: a name is no URL, and there is no folder.
    """
    names = names.fill_null("").str.strip_chars()
    is_url = names.str.contains(URL)
    files = {} if folder is None else folder_files(folder)
    others = names.filter(~is_url & (names != ""))
    if folder is None and len(others):
        raise DataError(
            file="items",
            column=modality,
            found=printable(others[0]),
            expected="URLs",
            hint=f"set {FOLDERS[modality]} to the folder of the files",
        )
    missing = [name for name in others if name not in files]
    counted = f"{len(missing):,} of {len(others):,} {NOUNS[modality]}s"
    _warn(f"{counted} are not in {printable(folder)}", missing)
    found = [
        name if url else str(files.get(name, "")) for name, url in zip(names, is_url, strict=True)
    ]
    used = {*found} & {str(path) for path in files.values()}
    return Places(
        _texts(found),
        {"no_name": int((names == "").sum()), "not_found": len(missing)},
        len(files) - len(used),
    )


def encode_files(
    make: Callable[[Model], Encoder],
    modality: str,
    model: Model,
    places: Places,
    parts: Sequence[str],
    problem: Callable[[str], str | None],
) -> tuple[Vectors, dict[str, int], dict[str, str]]:
    """Encode the files of items; equal ones once.

    Args:
        make: makes the encoder of a model, if anything is left to encode.
        modality: `image` or `audio`.
        model: reads the files.
        places: [I] paths.
        parts: more that the features depend on, as text.
        problem: says why a file cannot be decoded.

    Returns:
        Features, why items have none and how many, and the description of the encoder.

    Raises:
        DataError: no item has a file that can be decoded.
    """
    noun = NOUNS[modality]
    paths = places.found.filter(places.found != "").unique(maintain_order=True).to_list()
    found = digests(map(Path, paths))
    digest = {path: found[Path(path)] for path in paths}
    unique = {digest[path]: path for path in reversed(paths)}  # the first path of each content
    order = sorted(unique, key=lambda each: (Path(unique[each]).stat().st_size, each))
    if not order:
        raise DataError(
            file="items",
            problem=f"no item has a {noun}",
            hint=f"set {model.setting}=null, or correct where {noun}s are",
        )
    matrix, about = encode_items(
        lambda: make(model),
        modality,
        [unique[each] for each in order],
        [each[:32] for each in order],
        [model.value, model.precision, *parts],
        block=BLOCK,
    )
    corrupt = [bool(np.isnan(row).all()) for row in matrix]
    number = {each: row for row, each in enumerate(order) if not corrupt[row]}
    rows = np.array(
        [number.get(digest[path], -1) if path else -1 for path in places.found], dtype=np.int64
    )
    bad = places.found.filter((places.found != "") & pl.Series(rows < 0)).to_list()
    _warn(
        f"{len(bad):,} of {len(places.found):,} items have a {noun} that cannot be decoded",
        [f"{Path(path).name} ({problem(path) or 'no reason'})" for path in bad[:SHOWN]],
    )
    if all(corrupt):
        raise DataError(
            file=modality,
            problem=f"none of {len(bad):,} {noun}s can be decoded",
            hint=f"look at {printable(bad[0])}",
        )
    without = {**places.without, "corrupt": len(bad)}
    return Vectors(matrix, rows, f"{noun}s of items", None, places.unused), without, about


def _texts(values: Sequence[str | Path]) -> pl.Series:
    return pl.Series("place", [str(value) for value in values], dtype=pl.String)


def _warn(problem: str, names: Sequence[str]) -> None:
    """Log a warning with the first names; nothing if there are none."""
    if names:
        more = ", ..." if len(names) > SHOWN else ""
        listed = ", ".join(printable(name, 200) for name in names[:SHOWN])
        log.warning("%s: %s%s", problem, listed, more)
