"""Wrong features and categories of items, for studies of how much models depend on right ones.

I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from mmrec.config.checks import check_choice
from mmrec.config.errors import SettingError
from mmrec.data.corpus import Categories, Corpus, Modality, content_hash

Corruption = Literal["noise", "shuffle"]
CATEGORIES = "categories"  # key of `data.corrupt`, beside the modalities


def shuffled_categories(
    categories: Categories, n_items: int, share: float, *, seed: int
) -> Categories:
    """Exchange the categories of some items along one cycle.

    Each of two or more chosen items gets all categories of another chosen item, which may be equal
    to its own. Items without a category stay without.

    Args:
        categories: left as they are.
        n_items: I.
        share: of the items that have categories, 0..1.
        seed: of the choice of items and of the cycle.
    """
    labelled = torch.unique(categories.item)
    generator = torch.Generator().manual_seed(seed)
    order = labelled[torch.randperm(len(labelled), generator=generator)]
    chosen = order[: round(share * len(labelled))]
    receiver = torch.arange(n_items)  # [I], of each item's categories
    receiver[chosen] = chosen.roll(1)
    return categories._replace(item=receiver[categories.item])


def corrupt_modalities(
    corpus: Corpus, shares: Mapping[str, float], *, how: Corruption = "noise", seed: int
) -> Corpus:
    """Replace the features or categories of some items by noise, or by those of other items.

    The corrupted items are drawn by `seed` alone: they are the same for both kinds, and in all
    modalities that the same items have.

    Args:
        corpus: left as it is.
        shares: modality -> share of its present items, 0..1. `categories`, unless a modality has
            this name: share of the labelled items whose categories move, whatever `how` says.
        how: `noise` draws from a normal distribution with the mean and variance of each column.
            `shuffle` permutes the rows of the corrupted items, so that the distribution of the
            features stays the same; of two or more corrupted items none keeps its own row. Each
            modality has its own permutation.
        seed: of the choice of items, the noise and the permutation.

    Returns:
        The corpus with other features, and with another fingerprint where anything changed.

    Raises:
        SettingError: no such modality or kind, or a share outside 0..1.
    """
    check_choice(Corruption, "data", corrupt_how=how)
    modalities, categories = dict(corpus.modalities), corpus.categories
    there = [*modalities, *([] if categories is None else [CATEGORIES])]
    for name, share in shares.items():
        if name not in there:
            raise SettingError(
                setting=f"data.corrupt.{name}",
                value=share,
                problem="no such modality",
                hint=f"there are {', '.join(sorted(there))}",
            )
        if not 0 <= share <= 1:
            raise SettingError(
                setting=f"data.corrupt.{name}", value=share, expected="a share from 0 to 1"
            )
        if name in modalities:
            modalities[name] = _corrupt(name, modalities[name], share, how, seed)
        elif categories is not None:
            categories = shuffled_categories(categories, corpus.n_items, share, seed=seed)
    changed = {name: share for name, share in sorted(shares.items()) if share}
    if not changed:
        return corpus
    # Noise is not named: it has the fingerprint of versions that knew nothing else.
    kind = [] if how == "noise" else [how]
    fingerprint = content_hash([corpus.fingerprint, repr(changed), str(seed), *kind])
    return replace(corpus, modalities=modalities, categories=categories, fingerprint=fingerprint)


def _corrupt(name: str, modality: Modality, share: float, how: Corruption, seed: int) -> Modality:
    generator = torch.Generator().manual_seed(seed)
    rows = modality.present.nonzero().squeeze(1)
    order = rows[torch.randperm(len(rows), generator=generator)]
    chosen = order[: round(share * len(rows))]
    if how == "noise":
        found = modality.features[rows]
        mean, std = found.mean(0), found.std(0, correction=int(len(rows) > 1))
        noise: Tensor = torch.randn((len(chosen), modality.width), generator=generator)
        content, key = mean + std * noise, [modality.digest, repr(share), str(seed)]
    else:
        # One cycle through all corrupted items: none keeps its row.
        generator.manual_seed(int(content_hash([name, str(seed)])[:15], 16))
        chosen = chosen[torch.randperm(len(chosen), generator=generator)]
        content = modality.features[chosen.roll(1)]
        key = [modality.digest, repr(share), str(seed), how, name]
    features = modality.features.index_copy(0, chosen, content)
    return Modality(features, modality.present, content_hash(key))
