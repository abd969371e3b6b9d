"""The layout of a graph without cycles in layers, from top to bottom. Sugiyama, Tagawa, Toda 1981, "Methods
for visual understanding of hierarchical system structures".

1. Every node is one layer below the lowest of its sources.
2. An edge that passes a layer gets a waypoint there.
3. The nodes of a layer are ordered by the mean position of their neighbours, as long as edges cross less.
4. Horizontal positions keep the order and the gaps and make the edges as straight as possible: a linear
   programme, as in Gansner, Koutsofios, North, Vo 1993, "A technique for drawing directed graphs", sec. 4,
   with the additional term that a node stands in the middle of its branches.
"""

import itertools
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

Edge = tuple[int, int]
Point = tuple[float, float]
Key = Hashable  # a node's index, or an edge and the layer of its waypoint

GAP_X = 22.0
GAP_Y = 26.0
WAYPOINT_WIDTH = 6.0
ORDERING_SWEEPS = 8
# What a distance from the straight line costs
STRAIGHT, BYPASS_STRAIGHT, CENTERED, LOOSE = 20.0, 8.0, 4.0, 0.1


class LayeredLayout(NamedTuple):
    """Left top corner of each node, and the points of each edge: the ends of a vertical line in each layer.
    The corner of all is (0, 0)."""

    corners: dict[int, Point]
    routes: dict[Edge, list[Point]]
    width: float
    height: float


def layered_layout(sizes: Mapping[int, Point], edges: Sequence[Edge]) -> LayeredLayout:
    """`sizes`: width and height of each node, in the order in which nodes of a layer stand at first. `edges`
    have no cycle."""
    return _Layout(sizes, edges).result()


class _Layout:
    def __init__(self, sizes: Mapping[int, Point], edges: Sequence[Edge]):
        self.sizes = sizes
        self.edges = edges
        self.readers = {node: [b for a, b in edges if a == node] for node in sizes}
        self.layer_of = _layers(sizes, edges)
        self.layers: list[list[Key]] = [[] for _ in range(max(self.layer_of.values(), default=-1) + 1)]
        self.above: dict[Key, list[Key]] = {}
        self.below: dict[Key, list[Key]] = {}
        self.chains: dict[Edge, list[Key]] = {}  # source, waypoints, target
        rank: dict[Key, tuple[float, ...]] = {}
        order = {node: i for i, node in enumerate(sizes)}
        for node in sizes:
            self.layers[self.layer_of[node]].append(node)
            rank[node] = (order[node], 0)
        for source, target in edges:
            waypoints: list[Key] = []
            for layer in range(self.layer_of[source] + 1, self.layer_of[target]):
                waypoint: Key = ((source, target), layer)
                waypoints.append(waypoint)
                self.layers[layer].append(waypoint)
                # An edge that bypasses others stands to their right; the end of a branch stays in its column.
                rank[waypoint] = (order[target] if self._is_bypass(source) else order[source], 1)
            chain = [source, *waypoints, target]
            self.chains[source, target] = chain
            for upper, lower in itertools.pairwise(chain):
                self.below.setdefault(upper, []).append(lower)
                self.above.setdefault(lower, []).append(upper)
        for keys in self.layers:
            keys.sort(key=lambda key: rank[key])
        self._order()

    def _is_bypass(self, source: int) -> bool:
        return len(self.readers[source]) > 1

    def _order(self) -> None:
        best = [list(layer) for layer in self.layers]
        fewest = self._crossings()
        for sweep in range(ORDERING_SWEEPS):
            if fewest == 0:
                break
            neighbors = self.above if sweep % 2 == 0 else self.below
            for layer in self.layers if sweep % 2 == 0 else reversed(self.layers):
                position = self._positions_in_layer()
                mean = {
                    key: _mean([position[n] for n in neighbors.get(key, ())], position[key]) for key in layer
                }
                layer.sort(key=lambda key: mean[key])
            crossings = self._crossings()
            if crossings < fewest:
                fewest, best = crossings, [list(layer) for layer in self.layers]
        self.layers = best

    def _positions_in_layer(self) -> dict[Key, int]:
        return {key: i for layer in self.layers for i, key in enumerate(layer)}

    def _crossings(self) -> int:
        position = self._positions_in_layer()
        count = 0
        for layer in self.layers:
            pairs = [(position[key], position[lower]) for key in layer for lower in self.below.get(key, ())]
            count += sum(
                (a[0] - b[0]) * (a[1] - b[1]) < 0 for i, a in enumerate(pairs) for b in pairs[i + 1 :]
            )
        return count

    def _width(self, key: Key) -> float:
        return self.sizes[key][0] if isinstance(key, int) else WAYPOINT_WIDTH

    def _centers(self) -> dict[Key, float]:
        """Horizontal centre of every node and waypoint: a linear programme."""
        from scipy.optimize import linprog
        from scipy.sparse import coo_array

        number = {key: i for i, key in enumerate(key for layer in self.layers for key in layer)}
        gaps = [pair for layer in self.layers for pair in itertools.pairwise(layer)]
        distances = list(self._distances())
        num_keys, num_distances = len(number), len(distances)
        entries: list[tuple[int, int, float]] = []  # row, column, coefficient of A x <= b
        bounds: list[float] = []
        for left, right in gaps:
            entries += [(len(bounds), number[left], 1.0), (len(bounds), number[right], -1.0)]
            bounds.append(-(self._width(left) + self._width(right)) / 2 - GAP_X)
        for i, (_, coefficients) in enumerate(distances):  # each is at least its two signed differences
            for sign in (1.0, -1.0):
                entries += [(len(bounds), number[key], sign * value) for key, value in coefficients.items()]
                entries.append((len(bounds), num_keys + i, -1.0))
                bounds.append(0.0)
        if not bounds:
            return dict.fromkeys(number, max(map(self._width, number), default=0) / 2)
        rows, columns, values = zip(*entries, strict=True)
        shape = (len(bounds), num_keys + num_distances)
        constraints = coo_array((values, (rows, columns)), shape=shape).tocsr()
        cost = [0.0] * num_keys + [weight for weight, _ in distances]
        limits = [(self._width(key) / 2, None) for key in number] + [(0, None)] * num_distances
        solution = linprog(cost, A_ub=constraints, b_ub=bounds, bounds=limits, method="highs").x
        leftmost = min(solution[i] - self._width(key) / 2 for key, i in number.items())
        return {key: round(float(solution[i] - leftmost), 2) for key, i in number.items()}

    def _distances(self) -> Iterator[tuple[float, dict[Key, float]]]:
        """What is made small: a weight, and coefficients of positions whose sum is the distance."""
        for chain in self.chains.values():
            for upper, lower in itertools.pairwise(chain):
                yield self._straightness(upper, lower), {upper: 1.0, lower: -1.0}
        for neighbors in (self.above, self.below):
            for node in self.sizes:  # a node stands in the middle of its branches
                branches = [key for key in neighbors.get(node, ()) if not self._bypasses(key)]
                if len(branches) > 1:
                    yield CENTERED, {node: 1.0} | {key: -1 / len(branches) for key in branches}

    def _straightness(self, upper: Key, lower: Key) -> float:
        if self._bypasses(upper) or self._bypasses(lower):
            return BYPASS_STRAIGHT if not isinstance(upper, int) and not isinstance(lower, int) else LOOSE
        is_branch = len(self.below.get(upper, ())) == 1 and len(self.above.get(lower, ())) == 1
        ends_alone = [k for k in self.below.get(upper, ()) if not self._bypasses(k)] == [lower]
        begins_alone = [k for k in self.above.get(lower, ()) if not self._bypasses(k)] == [upper]
        return STRAIGHT if is_branch or (ends_alone and begins_alone) else LOOSE

    def _bypasses(self, key: Key) -> bool:
        """Whether it is a waypoint of an edge that bypasses a longer path."""
        return not isinstance(key, int) and self._is_bypass(key[0][0])  # type: ignore[index]

    def result(self) -> LayeredLayout:
        center = self._centers()
        tops: list[float] = []
        bottoms: list[float] = []
        top = 0.0
        for layer in self.layers:
            height = max([self.sizes[key][1] for key in layer if isinstance(key, int)], default=0.0)
            tops.append(top)
            bottoms.append(top + height)
            pairs = [(key, lower) for key in layer for lower in self.below.get(key, ())]
            widest = max([abs(center[a] - center[b]) for a, b in pairs], default=0.0)
            top += height + GAP_Y + min(widest / 12, GAP_Y)  # room for a slope
        corners = {}
        for node, (width, height) in self.sizes.items():
            layer_index = self.layer_of[node]
            middle = (tops[layer_index] + bottoms[layer_index]) / 2
            corners[node] = (center[node] - width / 2, middle - height / 2)
        routes = {
            edge: self._route(edge, chain, center, corners, tops, bottoms)
            for edge, chain in self.chains.items()
        }
        width = max((center[key] + self._width(key) / 2 for key in center), default=0)
        return LayeredLayout(corners, routes, width, bottoms[-1] if bottoms else 0)

    def _route(
        self,
        edge: Edge,
        chain: Sequence[Key],
        center: Mapping[Key, float],
        corners: Mapping[int, Point],
        tops: Sequence[float],
        bottoms: Sequence[float],
    ) -> list[Point]:
        source, target = edge
        first, last = self.layer_of[source], self.layer_of[target]
        start = self._port(source, center[chain[1]], center)
        end = self._port(target, center[chain[-2]], center)
        points = [(start, corners[source][1] + self.sizes[source][1]), (start, bottoms[first])]
        for layer, waypoint in zip(range(first + 1, last), chain[1:-1], strict=True):
            points += [(center[waypoint], tops[layer]), (center[waypoint], bottoms[layer])]
        return [*points, (end, tops[last]), (end, corners[target][1])]

    def _port(self, node: int, toward: float, center: Mapping[Key, float]) -> float:
        """Where on its side a node is left or entered: at the point that is nearest to the neighbour."""
        width, height = self.sizes[node]
        reach = max((width - max(height, 20)) / 2, 0)  # not where the corners are round
        return min(max(toward, center[node] - reach), center[node] + reach)


def _layers(sizes: Mapping[int, Point], edges: Sequence[Edge]) -> dict[int, int]:
    """Of each node, the number of edges on the longest path to it."""
    sources: dict[int, set[int]] = {node: set() for node in sizes}
    for source, target in edges:
        sources[target].add(source)
    layer: dict[int, int] = {}
    while len(layer) < len(sizes):
        ready = [node for node in sizes if node not in layer and sources[node] <= layer.keys()]
        assert ready, "the edges have a cycle"
        layer |= {node: max((layer[source] + 1 for source in sources[node]), default=0) for node in ready}
    return layer


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
