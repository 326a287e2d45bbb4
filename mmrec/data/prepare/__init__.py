"""From raw files to a data set on disk."""

from mmrec.data.prepare.amazon2014 import Amazon2014
from mmrec.data.prepare.amazon2018 import Amazon2018
from mmrec.data.prepare.amazon2023 import Amazon2023
from mmrec.data.prepare.base import RawData
from mmrec.data.prepare.build import prepare_folder
from mmrec.data.prepare.card import Card, describe
from mmrec.data.prepare.check import check_folder, inspect_folder
from mmrec.data.prepare.fetch import Fetcher
from mmrec.data.prepare.microlens import MicroLens
from mmrec.data.prepare.movielens import MovieLens
from mmrec.data.prepare.processed import ProcessedFolder
from mmrec.data.prepare.tables import TableColumns, Tables

__all__ = [
    "Amazon2014",
    "Amazon2018",
    "Amazon2023",
    "Card",
    "Fetcher",
    "MicroLens",
    "MovieLens",
    "ProcessedFolder",
    "RawData",
    "TableColumns",
    "Tables",
    "check_folder",
    "describe",
    "inspect_folder",
    "prepare_folder",
]
