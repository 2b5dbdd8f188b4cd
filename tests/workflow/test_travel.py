"""What goes to worker processes is as large as it is."""

from __future__ import annotations

import pickle

import pytest
import torch

from hqc.errors import InputError

pytest.importorskip("cloudpickle", reason="the extra `workers` is not installed")
from hqc.workflow.travel import packed


def test_a_batch_cut_out_of_a_data_set_travels_alone() -> None:
    images = torch.rand(256, 3, 32, 32)
    batches = [(images[index : index + 1], {"mask": images[index, :, ::2]}) for index in (0, 7)]
    data = packed(batches, "the data")
    assert len(data) < 2 * (images[:1].nbytes + images[0, :, ::2].nbytes) + 4096
    for (image, named), (again, named_again) in zip(batches, pickle.loads(data), strict=True):
        assert torch.equal(image, again) and torch.equal(named["mask"], named_again["mask"])


def test_what_cannot_travel_is_named() -> None:
    with pytest.raises(InputError, match="the data cannot travel to other processes"):
        packed((item for item in ()), "the data")
