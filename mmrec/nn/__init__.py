"""Layers with one meaning each."""

from mmrec.nn.fusion import Fusion, FusionKind, Projection, masked_softmax, rms
from mmrec.nn.history import History
from mmrec.nn.lookup import lookup, lookup_nodes
from mmrec.nn.propagation import Propagation, sparse_matmul

__all__ = [
    "Fusion",
    "FusionKind",
    "History",
    "Projection",
    "Propagation",
    "lookup",
    "lookup_nodes",
    "masked_softmax",
    "rms",
    "sparse_matmul",
]
