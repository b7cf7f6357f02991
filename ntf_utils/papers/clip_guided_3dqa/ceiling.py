"""What could be known of a room's type at most: the types share their furniture, so the things do not tell all."""

from collections.abc import Sequence

import pandas as pd
import torch

from ntf_utils.data.rooms import KINDS, NOUNS, split
from ntf_utils.measures.retrieval import purity


def counted_purity(seeds: Sequence[int], rooms: int) -> pd.Series:
    """Purity, in percent and by seed, of the vectors that count a room's things of each class without an error.

    Args:
        seeds, rooms: of the iid report.
    """
    found = {}
    for seed in seeds:
        shown = split("val_iid", rooms, seed)
        counts = torch.tensor([[sum(t.noun == noun for t in room.things) for noun in NOUNS] for room in shown])
        kinds = torch.tensor([list(KINDS).index(room.kind) for room in shown])
        found[seed] = 100 * purity(counts.float(), kinds).value
    return pd.Series(found)
