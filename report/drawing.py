"""Places the boxes and edges of a graph, top to bottom; knows geometry in pixels, no SVG and no colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .model import NodeReport, Report

__all__ = ["MOST_BOXES", "Box", "Drawing", "Drawn", "draw", "drawn_boxes", "shortened"]

MOST_BOXES = 200
"""More than this nobody reads: such a graph is drawn by layers."""

_HEIGHT, _PITCH, _GAP, _MARGIN, _CHARACTER = 36, 64, 14, 10, 7.4
_SWEEPS = 8
_MOST_BENDS = 4_000
"""Long edges go around boxes as long as there are no more bends than this; more are drawn straight."""


@dataclass(frozen=True)
class Box:
    """What a box says: `label` and `small` in it, `hint` when the pointer is on it; `operands` are indices of boxes."""

    label: str
    small: str
    hint: str
    layer: str
    operands: tuple[int, ...]


@dataclass(frozen=True)
class Drawn:
    """A box and the left upper corner and size of its rectangle."""

    box: Box
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Drawing:
    """Boxes, the SVG path of every edge, and the size of it all."""

    boxes: tuple[Drawn, ...]
    paths: tuple[str, ...]
    width: float
    height: float


def shortened(text: str, most: int = 26) -> str:
    """The text, or its beginning and end where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"


# ---- what is drawn ------------------------------------------------------------------------------------------------------


def drawn_boxes(report: Report) -> tuple[list[Box], str]:
    """The boxes of a report's graph, and a sentence on what is left out of them (empty if nothing is)."""
    nodes = [n for n in report.graph if n.op != "constant"]
    constants = len(report.graph) - len(nodes)
    said = "Constants are not drawn; the hover text names them. " if constants else ""
    if len(nodes) <= MOST_BOXES:
        return _node_boxes(nodes), said.strip()
    boxes = _layer_boxes(nodes)
    said = f"The graph has {len(report.graph):,} nodes and is drawn by layers. "
    if len(boxes) > MOST_BOXES:
        said += f"Only the first {MOST_BOXES} of {len(boxes):,} boxes are shown. "
        boxes = boxes[:MOST_BOXES]
    return boxes, said.strip()


def _node_boxes(nodes: Sequence[NodeReport]) -> list[Box]:
    index: dict[str, int] = {}
    boxes: list[Box] = []
    for i, n in enumerate(nodes):
        facts = (
            ("op", n.op),
            ("shape", n.shape or "one value"),
            ("type", n.type),
            ("layer", n.layer),
            ("reads", ", ".join(n.operands)),
        )
        hint = "\n".join((n.name, *(f"{what}: {value}" for what, value in facts if value)))
        small = shortened(" ".join(x for x in (n.op, n.shape, n.type) if x), 40)
        read = tuple(dict.fromkeys(index[o] for o in n.operands if o in index))
        boxes.append(Box(n.name, small, hint, n.layer, read))
        index[n.name] = i
    return boxes


def _layer_boxes(nodes: Sequence[NodeReport]) -> list[Box]:
    """One box for each layer and for each node outside layers, in the order of their first nodes."""
    members: dict[tuple[str, str], list[NodeReport]] = {}
    for n in nodes:
        members.setdefault(("layer", n.layer) if n.layer else ("node", n.name), []).append(n)
    index = {key: i for i, key in enumerate(members)}
    home = {n.name: index[key] for key, own in members.items() for n in own}
    boxes: list[Box] = []
    for i, ((kind, name), own) in enumerate(members.items()):
        # an edge against this order could close a circle: layers are told apart by depth, not always by order
        read = tuple(dict.fromkeys(home[o] for n in own for o in n.operands if o in home and home[o] < i))
        ops = f"{len(own)} ops" if len(own) > 1 else own[0].op
        hint = (
            f"{name}\n{' '.join(n.op for n in own[:40])}{' …' if len(own) > 40 else ''}\n{own[-1].shape} {own[-1].type}"
        )
        boxes.append(Box(name, ops, hint, name if kind == "layer" else "", read))
    return boxes


# ---- where it is drawn --------------------------------------------------------------------------------------------------


def draw(boxes: Sequence[Box]) -> Drawing:
    """Place boxes in rows so that every edge goes down, long edges around boxes, with few crossings."""
    rows, widths, up = _rows(boxes)
    down: dict[int, list[int]] = {i: [] for i in up}
    for i, operands in up.items():
        for j in operands:
            down[j].append(i)
    _order(rows, up, down)
    x = _columns(rows, widths, up, down)
    row_of = {i: r for r, row in enumerate(rows) for i in row}
    y = {i: _MARGIN + r * _PITCH for i, r in row_of.items()}
    drawn = tuple(Drawn(b, x[i] - widths[i] / 2, y[i], widths[i], _HEIGHT) for i, b in enumerate(boxes))
    paths = tuple(_path(i, j, up, x, y, len(boxes)) for i in range(len(boxes)) for j in up[i])
    right = max((x[i] + widths[i] / 2 for i in x), default=0) + _MARGIN
    return Drawing(drawn, paths, right, _MARGIN * 2 + max(len(rows) - 1, 0) * _PITCH + _HEIGHT)


def _rows(boxes: Sequence[Box]) -> tuple[list[list[int]], dict[int, float], dict[int, list[int]]]:
    """Items by row, their widths and what each reads; a bend (an item after the boxes) stands in every row an edge crosses."""
    rank = [0] * len(boxes)
    for i, b in enumerate(boxes):
        rank[i] = max((rank[j] + 1 for j in b.operands), default=0)
    for i, b in enumerate(boxes):
        if not b.operands:
            rank[i] = max(min((rank[k] for k, c in enumerate(boxes) if i in c.operands), default=1) - 1, 0)
    rows: list[list[int]] = [[] for _ in range(max(rank, default=-1) + 1)]
    for i, r in enumerate(rank):
        rows[r].append(i)
    widths = {i: max(len(shortened(b.label)), len(b.small) * 0.88) * _CHARACTER + 22 for i, b in enumerate(boxes)}
    up: dict[int, list[int]] = {i: [] for i in range(len(boxes))}
    bent = sum(rank[i] - rank[j] - 1 for i, b in enumerate(boxes) for j in b.operands) <= _MOST_BENDS
    bends: dict[tuple[int, int], int] = {}
    for i, b in enumerate(boxes):
        for j in b.operands:
            above = j
            for r in range(rank[j] + 1, rank[i]) if bent else ():
                if (j, r) not in bends:  # edges of one source share their bends
                    bends[j, r] = len(widths)
                    rows[r].append(len(widths))
                    up[len(widths)] = [above]
                    widths[len(widths)] = 4.0
                above = bends[j, r]
            up[i].append(above)
    return rows, widths, up


def _order(rows: list[list[int]], up: Mapping[int, list[int]], down: Mapping[int, list[int]]) -> None:
    """Order each row by the mean place of its neighbours, downwards and upwards in turn."""
    for sweep in range(_SWEEPS):
        neighbours = down if sweep % 2 else up
        place: dict[int, float] = {}
        for row in reversed(rows) if sweep % 2 else rows:
            at = {i: float(k) / max(len(row) - 1, 1) for k, i in enumerate(row)}
            row.sort(key=lambda i: (_mean([place[j] for j in neighbours[i] if j in place], at[i]), at[i]))
            place |= {i: float(k) / max(len(row) - 1, 1) for k, i in enumerate(row)}


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _columns(
    rows: Sequence[Sequence[int]],
    widths: Mapping[int, float],
    up: Mapping[int, list[int]],
    down: Mapping[int, list[int]],
) -> dict[int, float]:
    """The middle of every item: as near to its neighbours' as order and gaps allow."""
    x: dict[int, float] = {}
    for row in rows:
        at = 0.0
        for i in row:
            x[i] = at + widths[i] / 2
            at += widths[i] + _GAP
    for sweep in range(_SWEEPS * 2):
        neighbours = down if sweep % 2 else up
        for row in reversed(rows) if sweep % 2 else rows:
            wanted = [_mean([x[j] for j in neighbours[i]], x[i]) for i in row]
            gaps = [(widths[a] + widths[b]) / 2 + _GAP for a, b in pairwise(row)]
            x |= zip(row, _spread(wanted, gaps))
    left = min((x[i] - widths[i] / 2 for i in x), default=0.0) - _MARGIN
    return {i: at - left for i, at in x.items()}


def _spread(wanted: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """Places nearest to the wanted ones (least squares) that keep the order and the gaps between neighbours.

    >>> _spread([5.0, 5.0], [4.0])
    [3.0, 7.0]
    """
    offsets = [0.0]
    for gap in gaps:
        offsets.append(offsets[-1] + gap)
    groups: list[tuple[float, int]] = []  # sum and length of runs that touch each other
    for w, offset in zip(wanted, offsets):
        total, count = w - offset, 1
        while groups and groups[-1][0] / groups[-1][1] >= total / count:
            before, many = groups.pop()
            total, count = total + before, count + many
        groups.append((total, count))
    flat = [total / count for total, count in groups for _ in range(count)]
    return [at + offset for at, offset in zip(flat, offsets)]


def _path(
    i: int, j: int, up: Mapping[int, list[int]], x: Mapping[int, float], y: Mapping[int, float], boxes: int
) -> str:
    """From the bottom of the box above, through bends, to the top of box `i`."""
    points = [(x[i], y[i])]
    while j >= boxes:
        points += [(x[j], y[j] + _HEIGHT), (x[j], y[j])]
        j = up[j][0]
    points = [*points, (x[j], y[j] + _HEIGHT)][::-1]
    text = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (ax, ay), (bx, by) in pairwise(points):
        half = (ay + by) / 2
        text += (
            f"L{bx:.1f} {by:.1f}"
            if abs(ax - bx) < 0.5
            else f"C{ax:.1f} {half:.1f} {bx:.1f} {half:.1f} {bx:.1f} {by:.1f}"
        )
    return text
