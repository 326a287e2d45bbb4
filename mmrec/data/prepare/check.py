"""Verify a folder: against its manifest, and as a run reads it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmrec.config.bars import working
from mmrec.config.errors import DataError
from mmrec.config.text import first_line, printable
from mmrec.data.corpus import SPLITS, Source
from mmrec.data.files import FEATURES, digests
from mmrec.data.folder import read_folder
from mmrec.data.prepare.write import FORMAT, MANIFEST
from mmrec.data.splits import split_corpus
from mmrec.data.tables import shown
from mmrec.tables.headers import SIDE_FILES

log = logging.getLogger(__name__)
NEEDED = {
    "format": int,
    "key": str,
    "name": str,
    "files": dict,
    "counts": dict,
    "modalities": dict,
}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a prepared folder.

    Raises:
        DataError: there is none, or it is damaged or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            file=folder,
            problem=f"no {MANIFEST}",
            hint="prepare the data set, or give another folder",
        )
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            file=shown(path), problem=f"cannot be read ({printable(first_line(error), 200)})"
        ) from error
    wrong = [
        name
        for name, kind in NEEDED.items()
        if not (isinstance(found, dict) and isinstance(found.get(name), kind))
    ]
    if wrong or found["format"] != FORMAT:
        raise DataError(
            file=shown(path),
            problem=f"it lacks {wrong[0]}" if wrong else f"its format is {found['format']}",
            expected=f"a manifest of format {FORMAT}",
            hint="prepare the data set again",
        )
    return dict(found)


def check_folder(folder: Path, manifest: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Compare a prepared folder with its manifest: digests of files, then counts as read.

    Args:
        folder: of the data set.
        manifest: its content; None reads it.

    Returns:
        The manifest.

    Raises:
        DataError: a file is missing or differs, or the reader finds other counts.
    """
    manifest = dict(read_manifest(folder) if manifest is None else manifest)
    verified_source(folder, manifest)
    return manifest


def verified_source(folder: Path, manifest: Mapping[str, Any]) -> Source:
    """Read a prepared folder once its files and counts are those of its manifest.

    Raises:
        DataError: see `check_folder`.
    """
    name, known = manifest["name"], manifest["files"]
    with working("verify"):
        for file in known:
            if Path(file).name != file or not (folder / file).is_file():
                raise DataError(
                    file=folder,
                    problem=f"{printable(file)} is missing",
                    hint="prepare the data set again with overwrite=true",
                )
        found = digests(folder / file for file in known)
        for file, expected in known.items():
            if found[folder / file] != expected["sha256"]:
                raise DataError(
                    file=shown(folder / file),
                    found=f"sha256 {found[folder / file][:12]}...",
                    expected=f"{expected['sha256'][:12]}..., as in {MANIFEST}",
                    hint="the file has changed; prepare the data set again with overwrite=true",
                )
        source = read_folder(
            folder.parent,
            folder.name,
            interactions_file=f"{name}.inter",
            modalities=[*manifest["modalities"]],
            ids="rows",
        )
    counts = counts_of(source)
    if counts != manifest["counts"]:
        raise DataError(
            file=shown(folder / f"{name}.inter"),
            found=str(counts),
            expected=f"{manifest['counts']}, as in {MANIFEST}",
            hint="prepare the data set again with overwrite=true",
        )
    return source


def counts_of(source: Source) -> dict[str, int]:
    """Return the number of interactions, and of users and items that have one."""
    seen = source.interactions
    return {
        "interactions": len(seen),
        "users": len(torch.unique(seen.user)),
        "items": len(torch.unique(seen.item)),
    }


def inspect_folder(folder: Path) -> tuple[Source, dict[str, Any] | None]:
    """Read any folder as a run does, and log what is in it.

    Ids, labels, shapes of features and values that are not finite are checked by the reader. A
    folder with a manifest is also compared with it. Nothing is written to the folder.

    Args:
        folder: of the data set, with or without a manifest.

    Returns:
        The data set, and the manifest if there is one.

    Raises:
        DataError: a file is missing or invalid, or differs from the manifest.
    """
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    if manifest is not None:
        source = verified_source(folder, manifest)
        log.info("%s is as its manifest says: %d files", folder, len(manifest["files"]))
        listed = {MANIFEST, *manifest["files"]}
        added = [*folder.glob(f"*{FEATURES}"), *(folder / name for name in SIDE_FILES)]
        if more := sorted(p.name for p in added if p.is_file() and p.name not in listed):
            log.warning("%s: a run also reads %s, not in the manifest", folder, ", ".join(more))
            with working("read"):
                table = f"{manifest['name']}.inter"
                source = read_folder(folder.parent, folder.name, interactions_file=table)
    else:
        log.info("%s has no %s; only its content is checked", folder, MANIFEST)
        with working("read"):
            source = read_folder(folder.parent, folder.name, interactions_file=_table(folder))
    counts = ", ".join(f"{number:,} {what}" for what, number in counts_of(source).items())
    log.info("%s: %s, of a catalogue of %s", source.name, counts, f"{source.n_items:,}")
    if source.label is None:
        log.info("%s: no column of labels; a run draws the split", source.name)
    else:
        parts = split_corpus(source, split="official")
        sizes = ", ".join(f"{len(getattr(parts, part)):,} {part}" for part in SPLITS)
        log.info("%s: split in the file: %s", source.name, sizes)
    if not source.modalities:
        log.info("%s: no features (*%s)", source.name, FEATURES)
    return source, manifest


def _table(folder: Path) -> str | None:
    """The only `.inter` file of a folder that is not named after it; None: the reader looks."""
    found = sorted(path.name for path in folder.glob("*.inter"))
    return found[0] if len(found) == 1 else None
