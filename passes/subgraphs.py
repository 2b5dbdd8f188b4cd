"""Convex subgraphs of a graph with two devices: the algorithm behind `partition`, on plain integers.

Vertices are numbered in any topological order. `level` counts how often a path has left the accelerator; all accelerator
vertices of one level form a convex set, and so does every connected component of it. Neighbouring components of different
levels are then merged unless a path through the other device joins them, which makes the result maximal: no two adjacent
subgraphs could have been one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

_GAP = 1 << 64
_END = -1  # both ends of the linked list


def levels(predecessors: Sequence[Sequence[int]], inside: Sequence[bool]) -> list[int]:
    """`level(n) = max over predecessors p of level(p) + (p inside and n outside)`, 0 without predecessors."""
    result: list[int] = []
    for vertex, before in enumerate(predecessors):
        level = 0
        for p in before:
            candidate = result[p] + 1 if inside[p] and not inside[vertex] else result[p]
            if candidate > level:
                level = candidate
        result.append(level)
    return result


def depths(predecessors: Sequence[Sequence[int]]) -> list[int]:
    """Length of the longest path to each vertex."""
    result: list[int] = []
    for before in predecessors:
        result.append(1 + max([result[p] for p in before], default=-1))
    return result


def convex_subgraphs(
    predecessors: Sequence[Sequence[int]], inside: Sequence[bool], names: Sequence[str], *, horizontal: bool = False
) -> list[int | None]:
    """Number of the subgraph of every inside vertex, None for outside ones.

    `predecessors[v] < v` for all; `names` are unique and decide ties, so that the result depends on the graph and the names
    and not on the numbering. Subgraphs are numbered from 0 in a topological order of the quotient graph. With
    `horizontal` all inside vertices of one level are one subgraph.
    """
    level, depth = levels(predecessors, inside), depths(predecessors)
    order = sorted(range(len(predecessors)), key=lambda v: (depth[v], names[v]))
    rank = [0] * len(order)
    for position, vertex in enumerate(order):
        rank[vertex] = position
    sets = _DisjointSets(rank)
    if horizontal:
        first: dict[int, int] = {}
        for vertex in order:
            if inside[vertex]:
                sets.union(first.setdefault(level[vertex], vertex), vertex)
    else:
        for vertex, before in enumerate(predecessors):
            if inside[vertex]:
                for p in before:
                    if inside[p] and level[p] == level[vertex]:
                        sets.union(p, vertex)
        _merge_neighbours(predecessors, inside, level, rank, order, sets)
    return _number(predecessors, inside, rank, sets)


def _merge_neighbours(
    predecessors: Sequence[Sequence[int]],
    inside: Sequence[bool],
    level: Sequence[int],
    rank: Sequence[int],
    order: Sequence[int],
    sets: _DisjointSets,
) -> None:
    """Merge adjacent subgraphs, later consumers last, unless a path through an outside vertex joins them.

    One pass is enough: such a path stays, whatever else is merged, and where there is none, everything between the two
    joins them.
    """
    candidates = [
        (vertex, p)
        for vertex in order
        if inside[vertex]
        for p in sorted(predecessors[vertex], key=rank.__getitem__, reverse=True)
        if inside[p] and level[p] != level[vertex]
    ]
    if not candidates:
        return
    quotient = _Quotient(predecessors, inside, level, rank, sets)
    blocked: set[tuple[int, int]] = set()
    for vertex, p in candidates:
        pair = (sets.find(p), sets.find(vertex))
        if pair[0] != pair[1] and pair not in blocked and not quotient.merge(*pair):
            blocked.add(pair)


def _number(
    predecessors: Sequence[Sequence[int]], inside: Sequence[bool], rank: Sequence[int], sets: _DisjointSets
) -> list[int | None]:
    """Number subgraphs by their depth in the quotient graph, then by their first member."""
    root_of = [sets.find(vertex) for vertex in range(len(predecessors))]
    successors: dict[int, set[int]] = {root: set() for root in root_of}
    missing = dict.fromkeys(root_of, 0)
    for root, before in zip(root_of, predecessors, strict=True):
        for p in before:
            source = root_of[p]
            if source != root and root not in successors[source]:
                successors[source].add(root)
                missing[root] += 1
    depth = dict.fromkeys(missing, 0)
    ready = [root for root, count in missing.items() if count == 0]
    while ready:
        root = ready.pop()
        for later in successors[root]:
            depth[later] = max(depth[later], depth[root] + 1)
            missing[later] -= 1
            if missing[later] == 0:
                ready.append(later)
    roots = {root for vertex, root in enumerate(root_of) if inside[vertex]}
    ordered = sorted(roots, key=lambda root: (depth[root], rank[root]))
    number = {root: position for position, root in enumerate(ordered)}
    return [number[root] if inside[vertex] else None for vertex, root in enumerate(root_of)]


class _DisjointSets:
    """Union-find whose representative is the member of smallest rank."""

    def __init__(self, rank: Sequence[int]) -> None:
        self.parent = list(range(len(rank)))
        self.rank = rank

    def find(self, vertex: int) -> int:
        parent = self.parent
        while parent[vertex] != vertex:
            parent[vertex] = parent[parent[vertex]]
            vertex = parent[vertex]
        return vertex

    def union(self, a: int, b: int) -> int:
        a, b = self.find(a), self.find(b)
        if self.rank[b] < self.rank[a]:
            a, b = b, a
        self.parent[b] = a
        return a


class _Quotient:
    """The quotient graph under merging, with a topological order that is kept up to date.

    Searches run from both ends in lock step, edge by edge, and only between the positions of the two ends: a path that
    exists is found after little work, and a merge costs about the smaller side of what lies between.
    """

    def __init__(
        self,
        predecessors: Sequence[Sequence[int]],
        inside: Sequence[bool],
        level: Sequence[int],
        rank: Sequence[int],
        sets: _DisjointSets,
    ) -> None:
        self.sets, self.inside = sets, inside
        # Neighbours by root. After merges an entry may name a vertex that is no root any more: resolve with `find`.
        self.after: dict[int, set[int]] = {}
        self.before: dict[int, set[int]] = {}
        root_of = [sets.find(vertex) for vertex in range(len(predecessors))]
        for root in root_of:
            self.before.setdefault(root, set())
            self.after.setdefault(root, set())
        for root, sources in zip(root_of, predecessors, strict=True):
            for p in sources:
                source = root_of[p]
                if source != root:
                    self.before[root].add(source)
                    self.after[source].add(root)
        # Within a level, edges lead from outside vertices to outside or inside ones only.
        self.order = _Order(sorted(self.after, key=lambda root: (level[root], inside[root], rank[root])))

    def merge(self, a: int, b: int) -> bool:
        """Merge two adjacent roots, a before b, and all that lies between.

        False, and nothing happens, when a path through an outside vertex leads from a to b.
        """
        search = _Search(self, a, b)
        if search.blocked:
            return False
        reached, between = search.reached()
        members = [a, b, *between]
        root = a
        for vertex in members:
            root = self.sets.union(root, vertex)
        # What a reaches must come after the merged vertex, which stands where b stood (and the other way round).
        self.order.replace(members, b if search.forward else a, root)
        self.order.move([vertex for vertex in reached if vertex not in between], root, after=search.forward)
        for table in (self.before, self.after):
            parts = sorted((table.pop(vertex) for vertex in members), key=len)
            for part in parts[:-1]:
                parts[-1] |= part
            parts[-1].difference_update(members)
            table[root] = parts[-1]
        return True


class _Search:
    """Paths from root a to root b other than the edge between them.

    `blocked`: one of them passes an outside vertex. `forward`: the search from a came to an end, so `seen` holds all that a
    reaches between the two positions; else the search from b did.
    """

    def __init__(self, quotient: _Quotient, a: int, b: int) -> None:
        self.quotient, self.ends = quotient, (a, b)
        self.low, self.high = quotient.order.label[a], quotient.order.label[b]
        self.tables = (quotient.after, quotient.before)
        self.seen: tuple[dict[int, bool], dict[int, bool]] = ({}, {})  # root -> reached through an outside vertex
        self.stacks: tuple[list[tuple[Iterator[int], bool]], ...] = (
            [(iter(quotient.after[a]), False)],
            [(iter(quotient.before[b]), False)],
        )
        self.blocked = self._run()
        self.forward = not self.stacks[0]

    def _run(self) -> bool:
        while self.stacks[0] and self.stacks[1]:
            if self._step(0) or self._step(1):
                return True
        return False

    def _step(self, side: int) -> bool:
        """Follow one edge from one end; True when it completes a path through an outside vertex."""
        edges, through = self.stacks[side][-1]
        raw = next(edges, None)
        if raw is None:
            self.stacks[side].pop()
            return False
        vertex = self.quotient.sets.find(raw)
        if vertex in self.ends:
            return through and vertex == self.ends[1 - side]
        if not self.low < self.quotient.order.label[vertex] < self.high:
            return False
        through = through or not self.quotient.inside[vertex]
        mine, other = self.seen[side], self.seen[1 - side]
        if vertex in other and (through or other[vertex]):
            return True
        if vertex not in mine or (through and not mine[vertex]):
            mine[vertex] = through
            self.stacks[side].append((iter(self.tables[side][vertex]), through))
        return False

    def reached(self) -> tuple[list[int], set[int]]:
        """Roots that the finished side reaches, in order; and those of them on a path between the ends."""
        side = 0 if self.forward else 1
        label, find = self.quotient.order.label, self.quotient.sets.find
        reached = sorted(self.seen[side], key=label.__getitem__)
        between = set[int]()
        for vertex in reversed(reached) if self.forward else reached:
            onward = {find(raw) for raw in self.tables[side][vertex]}
            if self.ends[1 - side] in onward or not between.isdisjoint(onward):
                between.add(vertex)
        return reached, between


class _Order:
    """A linked list with integer labels: who comes first is a comparison, inserting anywhere is cheap."""

    def __init__(self, ordered: list[int]) -> None:
        self.label = {vertex: (position + 1) * _GAP for position, vertex in enumerate(ordered)}
        self.next = dict(zip(ordered, [*ordered[1:], _END], strict=True))
        self.previous = dict(zip(ordered, [_END, *ordered[:-1]], strict=True))
        self.next[_END], self.previous[_END] = (ordered[0], ordered[-1]) if ordered else (_END, _END)

    def replace(self, members: list[int], anchor: int, root: int) -> None:
        """Leave one entry `root` for all `members`, where the member `anchor` stood."""
        for vertex in members:
            if vertex != anchor:
                self._unlink(vertex)
        left, label = self.previous[anchor], self.label[anchor]
        self._unlink(anchor)
        self._link(root, left, label)

    def move(self, vertices: list[int], beside: int, *, after: bool) -> None:
        """Take `vertices` (in order) from where they are and put them directly after or before `beside`."""
        if not vertices:
            return
        for vertex in vertices:
            self._unlink(vertex)
        left = beside if after else self.previous[beside]
        right = self.next[left]
        if left != _END and right != _END and self.label[right] - self.label[left] <= len(vertices):
            self._renumber()
        if left == _END:
            low, step = self.label[right] - _GAP * (len(vertices) + 1), _GAP
        elif right == _END:
            low, step = self.label[left], _GAP
        else:
            low = self.label[left]
            step = (self.label[right] - low) // (len(vertices) + 1)
        for vertex in vertices:
            low += step
            self._link(vertex, left, low)
            left = vertex

    def _link(self, vertex: int, left: int, label: int) -> None:
        right = self.next[left]
        self.next[left] = self.previous[right] = vertex
        self.previous[vertex], self.next[vertex], self.label[vertex] = left, right, label

    def _unlink(self, vertex: int) -> None:
        left, right = self.previous.pop(vertex), self.next.pop(vertex)
        self.next[left], self.previous[right] = right, left
        del self.label[vertex]

    def _renumber(self) -> None:
        vertex, label = self.next[_END], 0
        while vertex != _END:
            label += _GAP
            self.label[vertex] = label
            vertex = self.next[vertex]
