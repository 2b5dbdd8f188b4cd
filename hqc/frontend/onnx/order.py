"""The order of a file's nodes: the standard wants each behind what it reads, runtimes take any order, and some converters append."""

from __future__ import annotations

import heapq

import onnx

from hqc.frontend.onnx.kept import names_read


def in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every node of its graph behind those that it reads; the same object where that is so.

    Nodes stay in the order of the file as far as possible. Those of a cycle come last, for the walk to name one.
    """
    nodes = list(model.graph.node)
    makers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            makers.setdefault(name, index)
    reads = [{makers[name] for name in names_read(node) if name in makers} for node in nodes]
    if all(maker < index for index, before in enumerate(reads) for maker in before):
        return model
    users: list[list[int]] = [[] for _ in nodes]
    waiting = [len(before) for before in reads]
    for index, before in enumerate(reads):
        for maker in before:
            users[maker].append(index)
    ready = [index for index, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for user in users[index]:
            waiting[user] -= 1
            if not waiting[user]:
                heapq.heappush(ready, user)
    placed = set(order)
    order += [index for index in range(len(nodes)) if index not in placed]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.node[:]
    result.graph.node.extend(nodes[index] for index in order)
    return result
