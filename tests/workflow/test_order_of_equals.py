"""Results of selections with a definite order of equals have the values, the order and the memory layout of torch's."""

from __future__ import annotations

import torch

from hqc.workflow.ties import FirstOfEquals


def test_selected_rows_are_contiguous_and_the_first_of_equals_comes_first() -> None:
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 4.0]])
    with FirstOfEquals():
        values, indices = torch.topk(x, 2)
        assert values.view(-1).tolist() == [3.0, 3.0, 5.0, 5.0]  # `view` takes no strided part of a sorted tensor
        assert indices.view(-1).tolist() == [1, 2, 0, 1]
        smallest, at = torch.kthvalue(x, 2, keepdim=True)
        assert smallest.view(-1).tolist() == [2.0, 5.0]
        assert at.view(-1).tolist() == [3, 0]
