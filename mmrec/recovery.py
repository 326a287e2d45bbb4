"""How well a model's weights tell what planted data have planted.

Shape legend: I items, M modalities, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmrec.data import Corpus
from mmrec.data.synthetic import Truth

DOMINANT = "dominant/"


def role_recovery(
    corpus: Corpus, truth: Truth, weights: Mapping[str, Tensor], group: Tensor | None = None
) -> dict[str, float]:
    """Compare what a model found to matter for items with their true roles.

    Items count that have every modality and a train interaction. `auc/<modality>`: among those
    with a dominant modality, how well its share of the modalities' weights tells the items where it
    is this one. `nmi`: mutual information of role and group, normalised (0: none, 1: the same
    partition). Equal weights give an AUC of one half and an NMI of zero; `chance/...` is what the
    same weights give when they are dealt to items at random.

    Args:
        corpus: the model's.
        truth: of the planted data.
        weights: channel -> [I], as `Recommender.item_weights` has it.
        group: [I] int64 of each item; None: the modality of the largest weight.

    Returns:
        By name; empty unless two modalities have a weight.
    """
    names = [name for name in corpus.modalities if name in weights]
    if len(names) < 2:
        return {}
    counts = corpus.item_counts() > 0
    for modality in corpus.modalities.values():
        counts &= modality.present
    share = torch.stack([weights[name].cpu() for name in names], 1)[counts]  # [I', M]
    share = share / share.sum(1, keepdim=True).clamp(min=1e-12)
    role = truth.role[counts]
    found = share.argmax(1) if group is None else group.cpu()[counts]
    order = torch.randperm(len(role), generator=torch.Generator().manual_seed(0))
    by_chance = _compare(truth, names, role, share[order], found[order])
    return {
        **_compare(truth, names, role, share, found),
        **{f"chance/{name}": value for name, value in by_chance.items()},
    }


def _compare(
    truth: Truth, names: list[str], role: Tensor, share: Tensor, group: Tensor
) -> dict[str, float]:
    from torchmetrics.functional.classification import binary_auroc
    from torchmetrics.functional.clustering import normalized_mutual_info_score

    known = [n for n, name in enumerate(names) if DOMINANT + name in truth.role_names]
    own = torch.tensor([truth.role_names.index(DOMINANT + names[n]) for n in known])
    dominant = torch.isin(role, own)
    found = {}
    for n, index in zip(known, own, strict=True):
        label = (role == index)[dominant]
        if label.any() and not label.all():
            found[f"auc/{names[n]}"] = float(binary_auroc(share[dominant, n], label.int()))
    if found:
        found = {"auc": sum(found.values()) / len(found), **found}
    # Said, so that torch need not warn that it does not check.
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
        return {**found, "nmi": float(normalized_mutual_info_score(group, role))}
