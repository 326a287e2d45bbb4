"""Layers with one meaning each."""

from mmrec.nn.fusion import Fusion, FusionKind, Projection, center_and_scale, masked_softmax
from mmrec.nn.history import History
from mmrec.nn.lookup import lookup, node_index
from mmrec.nn.propagation import Propagation, sparse_matmul

__all__ = [
    "Fusion",
    "FusionKind",
    "History",
    "Projection",
    "Propagation",
    "center_and_scale",
    "lookup",
    "masked_softmax",
    "node_index",
    "sparse_matmul",
]
