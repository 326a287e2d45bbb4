"""Layers, losses and other building blocks of the models."""

from mmrec.nn.category_guide import CategoryGuide, CategoryLabels, category_loss, item_labels
from mmrec.nn.channels import (
    Channels,
    ChannelVectors,
    GraphViews,
    ItemContent,
    UserContent,
    channel_names,
)
from mmrec.nn.content import Content, ItemFeatures, fill_missing, mean_item
from mmrec.nn.edges import InteractionEdges, edge_softmax
from mmrec.nn.expert_pool import ExpertPool, Pool, PoolGate
from mmrec.nn.experts import (
    ABOUT_ROLES,
    ROLES,
    Experts,
    Role,
    RoleExperts,
    Template,
    expert_templates,
    role_templates,
)
from mmrec.nn.factors import weighted_factors
from mmrec.nn.features import (
    Features,
    Precision,
    ProjectedFeatures,
    Projection,
    center_and_scale,
    embedding_linear,
)
from mmrec.nn.fusion import Fusion, FusionKind, masked_softmax
from mmrec.nn.gates import at_least_float32, block_mixture, gated_sum, sparse_softmax
from mmrec.nn.hypergraph import Hypergraph, HypergraphConvolution, soft_assignment
from mmrec.nn.load_balance import choices, entropies, even_gates, evenness, imbalance
from mmrec.nn.lookup import BatchIndex, lookup
from mmrec.nn.mixture import Mixed, SparseMixture
from mmrec.nn.modality_views import FusedViews, ModalityViews, ViewFusion, contrast_views
from mmrec.nn.propagation import LowRankPropagation, Propagation, blended_rows
from mmrec.nn.ranking_loss import Loss, RankingLoss
from mmrec.nn.router import PairRouter, Sees, Terms, cross, fused_ranking, ranking, tiled_ranking
from mmrec.nn.rows import unit_rows
from mmrec.nn.sparse import (
    SparseMatrix,
    TakenRows,
    neighbour_values,
    sparse_matmul,
    take_rows,
)
from mmrec.nn.spectral import SpectralFusion
from mmrec.nn.time_encoding import TimeEncoding
from mmrec.nn.user_items import UserItems

__all__ = [
    "ABOUT_ROLES",
    "ROLES",
    "BatchIndex",
    "CategoryGuide",
    "CategoryLabels",
    "ChannelVectors",
    "Channels",
    "Content",
    "ExpertPool",
    "Experts",
    "Features",
    "FusedViews",
    "Fusion",
    "FusionKind",
    "GraphViews",
    "Hypergraph",
    "HypergraphConvolution",
    "InteractionEdges",
    "ItemContent",
    "ItemFeatures",
    "Loss",
    "LowRankPropagation",
    "Mixed",
    "ModalityViews",
    "PairRouter",
    "Pool",
    "PoolGate",
    "Precision",
    "ProjectedFeatures",
    "Projection",
    "Propagation",
    "RankingLoss",
    "Role",
    "RoleExperts",
    "Sees",
    "SparseMatrix",
    "SparseMixture",
    "SpectralFusion",
    "TakenRows",
    "Template",
    "Terms",
    "TimeEncoding",
    "UserContent",
    "UserItems",
    "ViewFusion",
    "at_least_float32",
    "blended_rows",
    "block_mixture",
    "category_loss",
    "center_and_scale",
    "channel_names",
    "choices",
    "contrast_views",
    "cross",
    "edge_softmax",
    "embedding_linear",
    "entropies",
    "even_gates",
    "evenness",
    "expert_templates",
    "fill_missing",
    "fused_ranking",
    "gated_sum",
    "imbalance",
    "item_labels",
    "lookup",
    "masked_softmax",
    "mean_item",
    "neighbour_values",
    "ranking",
    "role_templates",
    "soft_assignment",
    "sparse_matmul",
    "sparse_softmax",
    "take_rows",
    "tiled_ranking",
    "unit_rows",
    "weighted_factors",
]
