"""Layers with one meaning each."""

from mmrec.nn.content import Content, Shelf, filled, mean_item
from mmrec.nn.experts import ROLES, Role, RoleExperts, Template, role_templates
from mmrec.nn.factors import weighted_factors
from mmrec.nn.features import Features
from mmrec.nn.fusion import (
    Fusion,
    FusionKind,
    Precision,
    Projection,
    center_and_scale,
    masked_softmax,
)
from mmrec.nn.history import History
from mmrec.nn.lookup import Picked, lookup
from mmrec.nn.mixture import Mixed, SparseMixture
from mmrec.nn.preference import Loss, Preference
from mmrec.nn.propagation import Propagation, blended_rows
from mmrec.nn.router import (
    PairRouter,
    Sees,
    Terms,
    block_mixture,
    choices,
    cross,
    entropies,
    even_gates,
    evenness,
    fused_ranking,
    imbalance,
    mixture,
    ranking,
    single,
    sparse_softmax,
)
from mmrec.nn.sparse import SparseMatrix, TakenRows, sparse_matmul, take_rows

__all__ = [
    "ROLES",
    "Content",
    "Features",
    "Fusion",
    "FusionKind",
    "History",
    "Loss",
    "Mixed",
    "PairRouter",
    "Picked",
    "Precision",
    "Preference",
    "Projection",
    "Propagation",
    "Role",
    "RoleExperts",
    "Sees",
    "Shelf",
    "SparseMatrix",
    "SparseMixture",
    "TakenRows",
    "Template",
    "Terms",
    "blended_rows",
    "block_mixture",
    "center_and_scale",
    "choices",
    "cross",
    "entropies",
    "even_gates",
    "evenness",
    "filled",
    "fused_ranking",
    "imbalance",
    "lookup",
    "masked_softmax",
    "mean_item",
    "mixture",
    "ranking",
    "role_templates",
    "single",
    "sparse_matmul",
    "sparse_softmax",
    "take_rows",
    "weighted_factors",
]
