"""Definitions of convolution and transposed convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc import arithmetic
from hqc.backends.bpu.reference import Array, finish, reference
from hqc.ir import Node


def complete(node: Node, acc: Array, operands: Sequence[Any], axis: int) -> Array:
    """Bias, residual and requantization of an accumulator whose channels lie on `axis`."""
    _, _, bias, requant, residual, residual_requant = operands
    shape = [-1 if i == axis % acc.ndim else 1 for i in range(acc.ndim)]
    if bias is not None:
        acc = acc + bias.astype(np.int64).reshape(shape)
    if residual is not None:
        rows = np.asarray(residual_requant, np.int64).reshape(3, -1)
        multiplier, shift = (rows[i].reshape(shape) for i in (0, 2))
        acc = acc + arithmetic.rounding_shift_right(residual.astype(np.int64) * multiplier, shift)
    return finish(node, acc, requant, axis)


@reference("int_conv2d")
def int_conv2d(node: Node, operands: Sequence[Any]) -> Array:
    x, weight = operands[0].astype(np.int64), operands[1].astype(np.int64)
    (th, tw), (dh, dw), groups = node.attributes["stride"], node.attributes["dilation"], node.attributes["groups"]
    top, left, bottom, right = node.attributes["padding"]
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    n, o, ho, wo = node.result.shape or ()
    _, per_group, kh, kw = weight.shape
    acc = np.zeros((n, o, ho, wo), np.int64)
    for channel in range(o):
        first = channel // (o // groups) * per_group
        for row in range(ho):
            for column in range(wo):
                y, z = row * th, column * tw
                window = padded[:, first : first + per_group, y : y + dh * (kh - 1) + 1 : dh, z : z + dw * (kw - 1) + 1 : dw]
                acc[:, channel, row, column] = (window * weight[channel]).sum(axis=(1, 2, 3))
    return complete(node, acc, operands, 1)


@reference("int_conv_transpose2d")
def int_conv_transpose2d(node: Node, operands: Sequence[Any]) -> Array:
    x, weight = operands[0].astype(np.int64), operands[1].astype(np.int64)
    (th, tw), (dh, dw), groups = node.attributes["stride"], node.attributes["dilation"], node.attributes["groups"]
    top, left = node.attributes["padding"][:2]
    n, o, ho, wo = node.result.shape or ()
    channels, per_group, kh, kw = weight.shape
    acc = np.zeros((n, o, ho, wo), np.int64)
    for channel in range(channels):
        group = channel // (channels // groups)
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                for i in range(kh):
                    for j in range(kw):
                        y, z = row * th + i * dh - top, column * tw + j * dw - left
                        if 0 <= y < ho and 0 <= z < wo:
                            products = x[:, channel, row, column, None] * weight[channel, :, i, j]
                            acc[:, group * per_group : (group + 1) * per_group, y, z] += products
    return complete(node, acc, operands, 1)
