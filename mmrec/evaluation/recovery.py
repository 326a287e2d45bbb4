"""Recovery of the planted roles of synthetic data from model weights.

Shapes: I items, N selected items, M modalities.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import torch
from torch import Tensor

from mmrec.data import Corpus, Roles
from mmrec.data.planting import DOMINANT


def role_recovery(
    corpus: Corpus,
    truth: Roles,
    weights: Mapping[str, Tensor],
    group: Tensor | None = None,
    *,
    items: Tensor | None = None,
    deals: int = 100,
) -> dict[str, float]:
    """Compare the channel weights of items with their planted roles.

    Only items that have all modalities are included. The metrics are:

    - `auc/<modality>`: AUC of the modality's weight for the items that it dominates, among the
      items with a dominant modality; `auc` is the mean.
    - `nmi`: normalised mutual information of the role and the modality with the largest weight
      (0: independent, 1: identical partition).
    - `nmi/expert`: normalised mutual information of the role and `group`.
    - `chance/...`: mean of each metric with weights shuffled over items.

    Equal weights give an AUC of 0.5 and an NMI of 0.

    Args:
        corpus: data of the model.
        truth: roles of the planted data.
        weights: weight of each channel, [I] by name; see `Recommender.item_weights`.
        group: group of each item, for example the expert with its largest gate, [I] int64.
        items: mask of the items to include, [I] bool; None for items with training interactions.
        deals: number of random shuffles for `chance/...`; 0 omits these metrics.

    Returns:
        Metrics by name; empty if fewer than two modalities have weights, or no item is included.
    """
    names = [name for name in corpus.modalities if name in weights]
    if len(names) < 2:
        return {}
    counted = corpus.item_counts() > 0 if items is None else items.clone()
    for modality in corpus.modalities.values():
        counted &= modality.present
    if not counted.any():
        return {}
    share = torch.stack([weights[name].cpu() for name in names], 1)[counted]  # [I', M]
    share = rounded(share.double() / share.sum(1, keepdim=True).clamp(min=1e-12))
    role = truth.role[counted]
    groups = {"nmi": share.argmax(1)}
    if group is not None:
        groups["nmi/expert"] = group.cpu()[counted]

    def compare(share: Tensor, groups: Mapping[str, Tensor]) -> dict[str, float]:
        areas = dominance_areas(truth, role, dict(zip(names, share.T, strict=True)))
        mean = {"auc": sum(areas.values()) / len(areas)} if areas else {}
        each = {f"auc/{name}": area for name, area in areas.items()}
        shared = {name: _mutual_information(group, role) for name, group in groups.items()}
        return {**mean, **each, **shared}

    found = compare(share, groups)
    if not deals:
        return found
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(role), generator=generator) for _ in range(deals)]
    dealt = [compare(share[o], {name: group[o] for name, group in groups.items()}) for o in orders]
    return found | {f"chance/{name}": fmean(deal[name] for deal in dealt) for name in found}


def rounded(weights: Tensor) -> Tensor:
    """Round weights, so that rounding errors do not order equal weights."""
    return weights.double().round(decimals=5)


def dominance_areas(truth: Roles, role: Tensor, weights: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the AUC of each modality's weight for the items that it dominates.

    Args:
        truth: names of the roles.
        role: roles of items, [N].
        weights: weights of the same items, [N] by modality.

    Returns:
        Area under the ROC curve by modality, among items with a dominant modality. Modalities that
        dominate none or all of these items are omitted.
    """
    from torchmetrics.functional.classification import binary_auroc

    names = truth.role_names
    own = {name: names.index(DOMINANT + name) for name in weights if DOMINANT + name in names}
    dominant = torch.isin(role, torch.tensor(list(own.values())))
    found = {}
    for name, index in own.items():
        label = (role == index)[dominant]
        if label.any() and not label.all():
            found[name] = float(binary_auroc(weights[name][dominant], label.long()))
    return found


def _mutual_information(one: Tensor, other: Tensor) -> float:
    from torchmetrics.functional.clustering import normalized_mutual_info_score

    # An explicit setting avoids PyTorch's warning that invariants are not checked.
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
        return float(normalized_mutual_info_score(one, other))
