"""From raw data to a data set on disk: fetch, parse, filter, split, write, verify."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmrec.config.errors import SettingError
from mmrec.config.paths import expand
from mmrec.data.corpus import content_hash
from mmrec.data.files import digests
from mmrec.data.prepare.base import RawData, RawFile
from mmrec.data.prepare.cache import VERSION, cached
from mmrec.data.prepare.card import Card, describe
from mmrec.data.prepare.check import check_folder, read_manifest, verified_source
from mmrec.data.prepare.encode import Encoder, SentenceEncoder, check_model, encode_texts
from mmrec.data.prepare.fetch import Fetcher
from mmrec.data.prepare.filters import count, filter_interactions, shown_counts
from mmrec.data.prepare.numbering import number
from mmrec.data.prepare.write import (
    MANIFEST,
    Staging,
    complete_manifest,
    write_interactions,
    write_items,
    write_manifest,
    write_vectors,
)
from mmrec.tables.shards import table_size

log = logging.getLogger(__name__)
WriteCard = Callable[[Path, Card, Mapping[str, Any]], object]


def prepare_folder(
    data: RawData,
    fetcher: Fetcher,
    versions: Mapping[str, str],
    *,
    overwrite: bool = False,
    make_encoder: Callable[[str], Encoder] = SentenceEncoder,
    write_card: WriteCard | None = None,
) -> Path:
    """Make the folder of a data set.

    Every stage is cached; a call that was killed goes on where it stopped. A folder that was made
    from the same files with the same settings is verified and left as it is.

    Args:
        data: source and settings.
        fetcher: downloads what is missing.
        versions: of Python and packages, for the manifest.
        overwrite: replace a folder that was prepared from other files or with other settings.
        make_encoder: makes the encoder of texts from `data.text_model`.
        write_card: writes the data card into the folder; None: there is none.

    Returns:
        The folder.

    Raises:
        DataError: a file cannot be fetched or is invalid.
        SettingError: the settings are invalid, the folder is in use, or it holds something else.
    """
    data.check()
    model = {} if data.text_model is None else check_model(data.text_model)
    folder = data.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder.with_name(f".preparing-{folder.name}.lock")).acquire(timeout=0)
    except Timeout:
        raise SettingError(
            setting="data.name",
            value=data.name,
            problem=f"another process prepares {folder}",
            hint="wait until it is done; its stages are shared",
        ) from None
    with lock:
        return _prepare(
            data, fetcher, versions, model, make_encoder, write_card, overwrite=overwrite
        )


def _prepare(
    data: RawData,
    fetcher: Fetcher,
    versions: Mapping[str, str],
    model: Mapping[str, RawFile],
    make_encoder: Callable[[str], Encoder],
    write_card: WriteCard | None,
    *,
    overwrite: bool,
) -> Path:
    folder = data.folder
    files = data.fetch(fetcher)
    if data.labels is not None:
        path = expand(data.labels)
        mappings = [path.with_name(f"{side}_id_mapping.csv") for side in "ui"]
        read = [path, *(each for each in mappings if each.exists())]
        files |= {
            f"labels/{each.name}": RawFile(each, digest) for each, digest in digests(read).items()
        }
    used = [f"{role}: {file.sha256}" for role, file in sorted(files.items())]
    weights = [f"{role}: {file.sha256}" for role, file in sorted(model.items())]
    key = content_hash([VERSION, *data.key(), *used, *weights])
    if _is_current(folder, key, overwrite=overwrite):
        return folder

    parts = [*data.parse_key(), *used]
    parsed, counts = cached("parse", parts, lambda: data.read_interactions(files))
    raw = count(parsed)
    stages: list[dict[str, Any]] = [{"stage": "parse", **raw, **counts}]
    log.info("parse: %s", shown_counts(raw))
    differences = _differences(f"the file of {data.name}", data.published, raw)
    rules = data.key("min_rating", "duplicates", "k_core")
    kept, filtered = cached(
        "filter",
        [*parts, *rules],
        lambda: filter_interactions(
            parsed,
            min_rating=data.min_rating,
            duplicates=data.duplicates,
            k_core=data.k_core,
        ),
    )
    stages += filtered
    final = count(kept)
    differences |= _differences(data.name, data.known, final)
    # Ids that only the order knows have a number; those that the filters removed have none.
    orders = {
        role: ids.filter(~ids.is_in(parsed[role].implode()) | ids.is_in(kept[role].implode()))
        for role, ids in data.id_orders(files).items()
    }
    numbered = number(
        kept,
        orders=orders,
        split=data.split,
        seed=data.split_seed,
        floor=data.floor_split,
        labels_file=None if data.labels is None else expand(data.labels),
    )
    stages.append({"stage": "split", "rule": numbered.rule, **numbered.parts()})
    log.info("split: %s, %s", numbered.rule, shown_counts(numbered.parts()))

    ids = content_hash([*numbered.items])
    sources = [file for file in used if not file.startswith("labels/")]
    details, item_counts = cached(
        "items", [*data.items_key(), *sources, ids], lambda: data.read_items(files, numbered.items)
    )
    vectors = data.read_vectors(files, numbered.items)
    encoder = None
    if data.text_model is not None and "text" in details.columns:
        encoded = encode_texts(make_encoder, data.text_model, details["text"], weights)
        vectors["text"], encoder = encoded
    staging = Staging(folder, key)
    write_interactions(staging, numbered)
    write_items(staging, details)
    for name, table in data.more_tables(files, numbered.items).items():
        staging.write(name, table.write_csv)
    modalities = {kind: write_vectors(staging, kind, each) for kind, each in vectors.items()}
    manifest = complete_manifest(
        staging,
        {
            "name": data.name,
            "settings": data.settings(),
            "sources": {
                role: {
                    "file": file.path.name,
                    "bytes": table_size(file.path),
                    "sha256": file.sha256,
                    "url": file.url,
                }
                for role, file in sorted({**files, **model}.items())
            },
            "stages": stages,
            "counts": final,
            "unexpected": differences,
            "split": numbered.rule,
            "items": item_counts,
            "modalities": modalities,
            "text_encoder": encoder,
            "versions": dict(versions),
        },
    )
    card = describe(verified_source(staging.folder, manifest), staging.folder)
    manifest["alignment"] = card.alignment()
    write_manifest(staging, manifest)
    if write_card is not None:
        write_card(staging.folder, card, manifest)
    staging.finish()
    log.info("%s: %s", folder, shown_counts(final))
    return folder


def _is_current(folder: Path, key: str, *, overwrite: bool) -> bool:
    """Whether a folder is what the settings make; a folder that may be replaced is not.

    Raises:
        DataError: it was made by them, and has changed since.
        SettingError: it holds something else that may not be replaced.
    """
    if not folder.exists():
        return False
    mine = (folder / MANIFEST).is_file()
    if mine:
        manifest = read_manifest(folder)
        if manifest["key"] == key and not overwrite:
            check_folder(folder, manifest)
            log.info("%s is up to date", folder)
            return True
    if not (mine and overwrite):
        ours = "it was prepared from other files or with other settings"
        replace = ", or overwrite=true to replace it" if mine else ""
        raise SettingError(
            setting="data.name",
            value=folder.name,
            problem=f"{folder} exists, and {ours if mine else f'it has no {MANIFEST}'}",
            hint=f"choose another data.name or data.root{replace}",
        )
    return False


def _differences(
    name: str, expected: Mapping[str, int], found: dict[str, int]
) -> dict[str, list[int]]:
    """Compare counts with published ones, and warn if they differ."""
    differences = {
        what: [found[what], number] for what, number in expected.items() if found[what] != number
    }
    if differences:
        listed = "; ".join(
            f"{number:,} {what} instead of {known:,}"
            for what, (number, known) in differences.items()
        )
        log.warning(
            "%s is not the published set: %s. Its results cannot be compared with published ones",
            name,
            listed,
        )
    return differences
