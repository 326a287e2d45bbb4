"""From files to batches."""

from mmrec.data.corpus import (
    Categories,
    Corpus,
    DataError,
    Interactions,
    Modality,
    Queries,
    Source,
    TrainingView,
    Triplets,
    content_hash,
    require_modalities,
)
from mmrec.data.datamodule import FolderData, InteractionData, PlantedData
from mmrec.data.folder import Columns, read_folder, read_items
from mmrec.data.splits import split_corpus
from mmrec.data.synthetic import Truth, planted

__all__ = [
    "Categories",
    "Columns",
    "Corpus",
    "DataError",
    "FolderData",
    "InteractionData",
    "Interactions",
    "Modality",
    "PlantedData",
    "Queries",
    "Source",
    "TrainingView",
    "Triplets",
    "Truth",
    "content_hash",
    "planted",
    "read_folder",
    "read_items",
    "require_modalities",
    "split_corpus",
]
