"""Recommendation models, one module per paper, and their base classes."""

from mmrec.models.base import Embeddings, ItemEmbeddings, NoNewItems, NoSimilarity, Recommender
from mmrec.models.bm3 import BM3
from mmrec.models.bpr import BPR
from mmrec.models.cammsr import CAMMSR
from mmrec.models.clcrec import CLCRec
from mmrec.models.content import ContentRecommender
from mmrec.models.content_bpr import ContentBPR
from mmrec.models.dropoutnet import DropoutNet
from mmrec.models.ease import EASE
from mmrec.models.egra import EGRA
from mmrec.models.freedom import FREEDOM
from mmrec.models.gated_lightgcn import GatedLightGCN
from mmrec.models.grcn import GRCN
from mmrec.models.gru4rec import GRU4Rec
from mmrec.models.gume import GUME
from mmrec.models.hm4sr import HM4SR
from mmrec.models.item_knn import ItemKNN
from mmrec.models.lattice import LATTICE
from mmrec.models.lgmrec import LGMRec
from mmrec.models.lightgcn import LightGCN
from mmrec.models.magnet import MAGNET
from mmrec.models.mamex import MAMEX
from mmrec.models.mgcn import MGCN
from mmrec.models.mmgcn import MMGCN
from mmrec.models.most_pop import MostPop
from mmrec.models.pgl import PGL
from mmrec.models.random import Random
from mmrec.models.routed import RoutedRecommender
from mmrec.models.sasrec import SASRec
from mmrec.models.sasrecf import SASRecF
from mmrec.models.sequence_knn import SequenceKNN
from mmrec.models.sequential import SequentialRecommender
from mmrec.models.slmrec import SLMRec
from mmrec.models.smore import SMORE
from mmrec.models.unisrec import UniSRec
from mmrec.models.vbpr import VBPR
from mmrec.models.wmf import WMF

__all__ = [
    "BM3",
    "BPR",
    "CAMMSR",
    "EASE",
    "EGRA",
    "FREEDOM",
    "GRCN",
    "GUME",
    "HM4SR",
    "LATTICE",
    "MAGNET",
    "MAMEX",
    "MGCN",
    "MMGCN",
    "PGL",
    "SMORE",
    "VBPR",
    "WMF",
    "CLCRec",
    "ContentBPR",
    "ContentRecommender",
    "DropoutNet",
    "Embeddings",
    "GRU4Rec",
    "GatedLightGCN",
    "ItemEmbeddings",
    "ItemKNN",
    "LGMRec",
    "LightGCN",
    "MostPop",
    "NoNewItems",
    "NoSimilarity",
    "Random",
    "Recommender",
    "RoutedRecommender",
    "SASRec",
    "SASRecF",
    "SLMRec",
    "SequenceKNN",
    "SequentialRecommender",
    "UniSRec",
]
