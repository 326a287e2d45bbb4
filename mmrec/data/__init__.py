"""From files to batches."""

from mmrec.data.assembly import Columns
from mmrec.data.batches import History, Pairs, Queries, Sequences, Triplets
from mmrec.data.corpus import (
    ByUser,
    Categories,
    Corpus,
    DataError,
    Interactions,
    Modality,
    Source,
    TrainingView,
    content_hash,
    require_modalities,
)
from mmrec.data.datamodule import FolderData, InteractionData, PlantedData
from mmrec.data.folder import read_folder, read_items
from mmrec.data.frames import FrameData, read_frames
from mmrec.data.memory import MemoryData
from mmrec.data.planting import Roles
from mmrec.data.pyg import PygData, from_pyg
from mmrec.data.splits import split_corpus
from mmrec.data.synthetic import Truth, planted
from mmrec.data.synthetic_sequences import SequentialTruth, planted_sequential

__all__ = [
    "ByUser",
    "Categories",
    "Columns",
    "Corpus",
    "DataError",
    "FolderData",
    "FrameData",
    "History",
    "InteractionData",
    "Interactions",
    "MemoryData",
    "Modality",
    "Pairs",
    "PlantedData",
    "PygData",
    "Queries",
    "Roles",
    "Sequences",
    "SequentialTruth",
    "Source",
    "TrainingView",
    "Triplets",
    "Truth",
    "content_hash",
    "from_pyg",
    "planted",
    "planted_sequential",
    "read_folder",
    "read_frames",
    "read_items",
    "require_modalities",
    "split_corpus",
]
