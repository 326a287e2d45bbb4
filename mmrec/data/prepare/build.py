"""From raw data to a data set on disk: fetch, parse, filter, split, write, verify."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from mmrec.config.errors import SettingError
from mmrec.config.paths import expand
from mmrec.data.corpus import Source, content_hash
from mmrec.data.files import digests
from mmrec.data.prepare.audio import recording_problem
from mmrec.data.prepare.base import RawData, RawFile
from mmrec.data.prepare.cache import VERSION, cached
from mmrec.data.prepare.card import Card, describe
from mmrec.data.prepare.check import read_manifest, verified_source
from mmrec.data.prepare.encode import Encoder, Model
from mmrec.data.prepare.encoders import check_model, make_encoder, parse_model
from mmrec.data.prepare.fetch import Fetcher
from mmrec.data.prepare.filters import count, filter_interactions, shown_counts
from mmrec.data.prepare.images import picture_problem
from mmrec.data.prepare.media import encode_files
from mmrec.data.prepare.numbering import number
from mmrec.data.prepare.texts import encode_texts
from mmrec.data.prepare.urls import Downloads
from mmrec.data.prepare.write import (
    MANIFEST,
    OWN,
    Staging,
    complete_manifest,
    write_interactions,
    write_items,
    write_manifest,
    write_vectors,
)

log = logging.getLogger(__name__)
WriteCard = Callable[[Path, Card, Mapping[str, Any]], object]
PROBLEMS = {
    "image": picture_problem,
    "audio": recording_problem,
}  # why a file of a modality cannot be decoded
MEDIA = ("images", "audio")  # roles of files that hold no interactions and no details


@dataclass(frozen=True)
class Encoders:
    """How content is encoded.

    Attributes:
        make: makes the encoder of a model.
        models: by modality.
        weights: files of models that are in folders, by modality and role.
    """

    make: Callable[[Model], Encoder]
    models: Mapping[str, Model]
    weights: Mapping[str, Mapping[str, RawFile]]

    def parts(self, modality: str) -> list[str]:
        """Return the digests of a model's files, as text."""
        return _digests(self.weights[modality])


def prepare_folder(
    data: RawData,
    fetcher: Fetcher,
    versions: Mapping[str, str],
    *,
    overwrite: bool = False,
    make: Callable[[Model], Encoder] = make_encoder,
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
        make: makes the encoder of a model.
        write_card: writes the data card into the folder; None: there is none.

    Returns:
        The folder.

    Raises:
        DataError: a file cannot be fetched or is invalid.
        SettingError: the settings are invalid, the folder is in use, or it holds something else.
    """
    data.check()
    models = {
        modality: parse_model(modality, value, data.precision)
        for modality, value in data.models().items()
        if value is not None
    }
    weights = {modality: check_model(model) for modality, model in models.items()}
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
        encoders = Encoders(make, models, weights)
        return _prepare(data, fetcher, versions, encoders, write_card, overwrite=overwrite)


def _prepare(
    data: RawData,
    fetcher: Fetcher,
    versions: Mapping[str, str],
    encoders: Encoders,
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
    used = _digests(files)
    weights = {role: file for each in encoders.weights.values() for role, file in each.items()}
    key = content_hash([VERSION, *data.key(), *used, *_digests(weights)])
    current = _current(folder, key, overwrite=overwrite)
    if current is not None:
        source, manifest = current
        if write_card is not None and not all((folder / name).is_file() for name in OWN):
            write_card(folder, describe(source, folder), manifest)
        return folder

    tables = _digests({role: file for role, file in files.items() if role not in MEDIA})
    parts = [*data.parse_key(), *tables]
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
    sources = [file for file in tables if not file.startswith("labels/")]
    details, item_counts = cached(
        "items", [*data.items_key(), *sources, ids], lambda: data.read_items(files, numbered.items)
    )
    vectors = data.read_vectors(files, numbered.items)
    about: dict[str, dict[str, str]] = {}
    if "text" in encoders.models and "text" in details.columns:
        vectors["text"], about["text"] = encode_texts(
            encoders.make, encoders.models["text"], details["text"], encoders.parts("text")
        )
    without: dict[str, dict[str, int]] = {}
    downloads = Downloads(fetcher, data.connections, data.rate)
    for modality, problem in PROBLEMS.items():
        if modality in encoders.models:
            places = data.places(modality, files, numbered.items, details)
            places = downloads.localize(places, numbered.items, f"{data.name}.{modality}")
            vectors[modality], without[modality], about[modality] = encode_files(
                encoders.make,
                modality,
                encoders.models[modality],
                places,
                encoders.parts(modality),
                problem,
            )
    rows = content_hash([torch.tensor(each.rows) for each in vectors.values()])
    staging = Staging(folder, key, rows)
    write_interactions(staging, numbered)
    write_items(staging, details)
    for name, table in data.more_tables(files, numbered.items).items():
        staging.write(name, table.write_csv)
    modalities = {
        kind: write_vectors(staging, kind, each)
        | ({"without": without[kind]} if kind in without else {})
        for kind, each in vectors.items()
    }
    manifest = complete_manifest(
        staging,
        {
            "name": data.name,
            "settings": data.settings(),
            "sources": {
                role: {
                    "file": file.path.name,
                    "bytes": file.size,
                    "sha256": file.sha256,
                    "url": file.url,
                }
                for role, file in sorted({**files, **weights}.items())
            },
            "stages": stages,
            "counts": final,
            "unexpected": differences,
            "split": numbered.rule,
            "items": item_counts,
            "modalities": modalities,
            **{f"{modality}_encoder": about.get(modality) for modality in ("text", *PROBLEMS)},
            "versions": dict(versions),
        },
    )
    card = describe(verified_source(staging.folder, manifest), folder)  # pictures are in the latter
    manifest["alignment"] = card.alignment()
    write_manifest(staging, manifest)
    staging.finish()
    if write_card is not None:
        write_card(folder, card, manifest)
    log.info("%s: %s", folder, shown_counts(final))
    return folder


def _digests(files: Mapping[str, RawFile]) -> list[str]:
    """The digests of files by role, as text."""
    return [f"{role}: {file.sha256}" for role, file in sorted(files.items())]


def _current(folder: Path, key: str, *, overwrite: bool) -> tuple[Source, dict[str, Any]] | None:
    """Return a folder's content and manifest if it is what the settings make.

    None if there is no folder, or one that may be replaced.

    Raises:
        DataError: it was made by them, and has changed since.
        SettingError: it holds something else that may not be replaced.
    """
    if not folder.exists():
        return None
    mine = (folder / MANIFEST).is_file()
    if mine:
        manifest = read_manifest(folder)
        if manifest["key"] == key and not overwrite:
            source = verified_source(folder, manifest)
            log.info("%s is up to date", folder)
            return source, manifest
    if not (mine and overwrite):
        ours = "it was prepared from other files or with other settings"
        replace = ", or overwrite=true to replace it" if mine else ""
        raise SettingError(
            setting="data.name",
            value=folder.name,
            problem=f"{folder} exists, and {ours if mine else f'it has no {MANIFEST}'}",
            hint=f"choose another data.name or data.root{replace}",
        )
    return None


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
