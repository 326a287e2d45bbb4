"""How well a model's weights tell what planted data have planted.

Shape legend: I items, M modalities, C channels.
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
    """Compare what a model found to matter for items with their true roles.

    Items count that have every modality. `auc/<modality>`: among those
    with a dominant modality, how well its share of the modalities' weights tells the items where it
    is this one. `nmi`: mutual information, normalised (0: none, 1: the same partition), of the role
    and the modality of the largest weight; `nmi/expert` of the role and the group. Equal weights
    give an AUC of one half and an NMI of zero; `chance/...` is what the same weights give, in the
    mean, when they are dealt to items at random.

    Args:
        corpus: the model's.
        truth: of the planted data.
        weights: channel -> [I], as `Recommender.item_weights` has it.
        group: [I] int64 of each item, as the expert of its largest gate.
        items: [I] bool, those that count; None: with a train interaction.
        deals: of the same weights at random, whose mean is chance; 0 leaves chance out.

    Returns:
        By name; empty unless two modalities have a weight, and some items count.
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
    """To what they say: the order of equal ones would be that of their last bits."""
    return weights.double().round(decimals=5)


def dominance_areas(truth: Roles, role: Tensor, weights: Mapping[str, Tensor]) -> dict[str, float]:
    """How well each modality's weight tells the items that it dominates from the others'.

    Args:
        truth: whose names of roles count.
        role: [N], of some items.
        weights: modality -> [N], of the same.

    Returns:
        Modality -> area under the ROC curve, among items of which one modality is dominant; without
        those of which there are none, or no others.
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

    # Said, so that torch need not warn that it does not check.
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
        return float(normalized_mutual_info_score(one, other))
