"""Verify a prepared folder against its manifest."""

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
from mmrec.data.files import digests
from mmrec.data.folder import read_folder
from mmrec.data.prepare.write import FORMAT, MANIFEST
from mmrec.data.tables import shown

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
            hint="only folders made by mmrec prepare can be checked",
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
    seen = source.interactions
    counts = {
        "interactions": len(seen),
        "users": len(torch.unique(seen.user)),
        "items": len(torch.unique(seen.item)),
    }
    if counts != manifest["counts"]:
        raise DataError(
            file=shown(folder / f"{name}.inter"),
            found=str(counts),
            expected=f"{manifest['counts']}, as in {MANIFEST}",
            hint="prepare the data set again with overwrite=true",
        )
    for kind, content in source.modalities.items():
        missing = int((~content.present).sum())
        log.info("%s: width %d, %d items without it", kind, content.features.shape[1], missing)
    return manifest
