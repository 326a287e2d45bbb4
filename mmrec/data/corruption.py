"""Wrong categories of items, for studies of how much models depend on right ones.

I items.
"""

from __future__ import annotations

import torch

from mmrec.data.corpus import Categories

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
