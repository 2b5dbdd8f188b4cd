"""Tensors with their quantization: by hand, through layout operations, joined, computed with."""

import torch
from horizon_plugin_pytorch.dtype import qinfo, qint8, qint16
from horizon_plugin_pytorch.qtensor import QTensor
from horizon_plugin_pytorch.utils.misc import pytree_convert

scale = torch.tensor([0.5])
x = QTensor(torch.tensor([[0.6, -1.2], [100.0, 3.0]]), scale, torch.zeros(1), dtype=qint8)
assert x.int_repr().tolist() == [[1, -2], [127, 6]] and x.int_repr().dtype == torch.int8
assert x.dequantize().tolist() == [[0.5, -1.0], [63.5, 3.0]]
assert torch.equal(x.q_scale(), scale) and x.q_zero_point().tolist() == [0] and x.q_per_channel_axis() == -1

moved = x.reshape(4)[:2]
assert isinstance(moved, QTensor) and torch.equal(moved.q_scale(), scale)
joined = torch.cat([x, x], dim=0)
assert isinstance(joined, QTensor) and joined.shape == (4, 2)
assert not isinstance(torch.cat([x, QTensor(x.dequantize(), torch.tensor([0.25]))]), QTensor)

total = x + x * 2
assert not isinstance(total, QTensor) and total.tolist() == [[1.5, -3.0], [190.5, 9.0]]
again = QTensor(total, torch.tensor([0.01]), dtype=qint16)
assert again.int_repr().max() == 19050 <= qinfo(qint16).max

integers = QTensor(
    torch.tensor([[1, 2], [3, 4]], dtype=torch.int8), torch.tensor([0.5, 2.0]), dtype="qint8", per_channel_axis=0
)
assert integers.dequantize().tolist() == [[0.5, 1.0], [6.0, 8.0]] and integers.int_repr().tolist() == [[1, 2], [3, 4]]
plain = pytree_convert({"a": [x], "b": 1}, QTensor, lambda each: each.dequantize())
assert type(plain["a"][0]) is torch.Tensor and plain["b"] == 1
