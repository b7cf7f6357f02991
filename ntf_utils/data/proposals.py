"""Things of a scene found without labels: what stands together on the floor, as a detector would propose it."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ntf_utils.data.scenes import Scene
from ntf_utils.refusal import Refusal

FLOOR, WALL = 0.06, 0.12  # metres: what is nearer to the ground, or to the back or the left wall, is no thing
REACH = 0.21  # metres in plan: points nearer than that belong together; things of a room are 0.25 m apart
FEWEST = 8  # points of a proposal


def proposals(scene: Scene, points: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Connected components, seen from above, of the points off floor and walls.

    The walls are where the cloud ends: to the left (smallest x) and at the back (largest y). Uses neither instances
    nor boxes of the scene.

    Args:
        points: of each crop, spread over the component; repeated where it has fewer.

    Returns:
        [p, points, 6] places in the room, in metres, and colours in [0, 1]; [p, 6] centre and extent of
        the box around the component. The order is that of the boxes' x. p may be 0.

    Raises:
        Refusal: a scene without points.
    """
    if not len(scene):
        raise Refusal(f"scene {scene.name} has no points")
    at = scene.points
    off = (at[:, 2] > at[:, 2].min() + FLOOR) & (at[:, 0] > at[:, 0].min() + WALL) & (at[:, 1] < at[:, 1].max() - WALL)
    at, colours = at[off], scene.colours[off]
    crops, boxes = [], []
    for rows in _together(at[:, :2]):
        low, high = at[rows].min(axis=0), at[rows].max(axis=0)
        # evenly through the component from the ground up, so that no part is missed by chance
        rows = rows[np.argsort(at[rows, 2], kind="stable")]
        rows = rows[np.linspace(0, len(rows) - 1, points).round().astype(int)]
        crops.append(np.concatenate([at[rows], colours[rows]], axis=1))
        boxes.append(np.concatenate([(low + high) / 2, high - low]))
    if not boxes:
        return np.empty((0, points, 6), dtype=np.float32), np.empty((0, 6), dtype=np.float32)
    order = np.argsort([box[0] for box in boxes], kind="stable")
    return np.stack(crops)[order].astype(np.float32), np.stack(boxes)[order].astype(np.float32)


def _together(plan: np.ndarray) -> list[np.ndarray]:
    """Rows of [n, 2] points in groups that short steps join."""
    if not len(plan):
        return []
    pairs = cKDTree(plan).query_pairs(REACH, output_type="ndarray")
    graph = coo_matrix((np.ones(len(pairs), dtype=bool), pairs.T), shape=(len(plan),) * 2)
    count, label = connected_components(graph, directed=False)
    order = np.argsort(label, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(label, minlength=count))[:-1])
    return [rows for rows in groups if len(rows) >= FEWEST]
