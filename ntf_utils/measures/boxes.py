"""Overlap of axis-aligned boxes in three dimensions, and the scores of localisation and detection that rest on it.

A box is [6]: its centre and its full extent along x, y and z, in metres.
"""

import torch
from torch import Tensor

from ntf_utils.refusal import Refusal


def _check(*sets: Tensor) -> None:
    for boxes in sets:
        if boxes.shape[-1] != 6:
            raise Refusal(f"a box is its centre and its extent, 6 numbers (got {boxes.shape[-1]})")
        if bool((boxes[..., 3:] < 0).any()):
            raise Refusal("a box has an extent of 0 m or more along every axis (got a negative one)")


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Volume of the intersection over that of the union: [..., n, 6] and [..., m, 6] -> [..., n, m] in 0..1.

    Two boxes without volume overlap by 0.

    Raises:
        Refusal: a last dimension other than 6, or a negative extent.
    """
    _check(boxes, others)
    low, high = _corners(boxes.unsqueeze(-2))
    other_low, other_high = _corners(others.unsqueeze(-3))
    shared = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp_min(0).prod(dim=-1)
    volume = boxes[..., 3:].prod(dim=-1).unsqueeze(-1) + others[..., 3:].prod(dim=-1).unsqueeze(-2) - shared
    return torch.where(volume > 0, shared / volume.clamp_min(torch.finfo(boxes.dtype).tiny), 0)


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    centre, half = boxes[..., :3], boxes[..., 3:] / 2
    return centre - half, centre + half


def best_iou(predicted: Tensor, truth: Tensor, there: Tensor | None = None) -> Tensor:
    """Overlap of each question's predicted box with the best of the objects that it asks about.

    Args:
        predicted: [q, 6]. truth: [q, m, 6], padded. there: [q, m] bool, which of them are objects; by default all.

    Returns:
        [q] in 0..1; 0 for a question without objects.
    """
    overlap = iou(predicted.unsqueeze(-2), truth).squeeze(-2)
    return (overlap if there is None else overlap * there).amax(dim=-1)


def localised(predicted: Tensor, truth: Tensor, there: Tensor | None = None, threshold: float = 0.25) -> Tensor:
    """[q] bool: Acc@0.25 and Acc@0.5 of ScanRefer and ScanQA, whether the overlap reaches the threshold."""
    return best_iou(predicted, truth, there) >= threshold


def average_precision(
    scores: Tensor, boxes: Tensor, rooms: Tensor, truth: Tensor, truth_rooms: Tensor, threshold: float = 0.25
) -> float:
    """Area under the precision-recall curve of one class (all-point interpolation, as in Pascal VOC 2010 and VoteNet).

    Detections are taken from the most confident down. Each claims the object of its room with which it overlaps most,
    if by the threshold or more; an object that was claimed before makes the later detection wrong.

    Args:
        scores: [n] confidence. boxes: [n, 6]. rooms: [n] number of the room of each detection.
        truth: [m, 6]. truth_rooms: [m]. threshold: of the overlap.

    Returns:
        0..1; 0 without detections.

    Raises:
        Refusal: no true object, so recall means nothing.
    """
    if not len(truth):
        raise Refusal("average precision needs at least one true object of the class")
    if not len(boxes):
        return 0.0
    overlap = iou(boxes, truth).masked_fill(rooms[:, None] != truth_rooms, -1)
    best, claimed_by = overlap.max(dim=1)
    taken: set[int] = set()
    right = torch.zeros(len(boxes), dtype=torch.float64)
    for place, row in enumerate(scores.argsort(descending=True, stable=True).tolist()):
        target = int(claimed_by[row])
        if float(best[row]) >= threshold and target not in taken:
            taken.add(target)
            right[place] = 1
    recall = right.cumsum(0) / len(truth)
    precision = right.cumsum(0) / torch.arange(1, len(boxes) + 1)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    return float((envelope * recall.diff(prepend=recall.new_zeros(1))).sum())
