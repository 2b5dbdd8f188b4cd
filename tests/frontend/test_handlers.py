"""Code that asks torch by trying: what torch refuses for these shapes is raised where it is called, and its handler runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hqc.errors import LoweringError
from hqc.frontend.fx import lower, trace

X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def view_or_reshape(x: torch.Tensor) -> Any:
    x = x.permute(0, 2, 3, 1)
    try:
        y = x.view(x.size(0), -1)
    except RuntimeError:
        y = x.reshape(x.size(0), -1)
    return y


def view_that_fits(x: torch.Tensor) -> Any:
    try:
        y = x.view(x.size(0), -1) + 1
    except RuntimeError:
        y = x.reshape(x.size(0), -1)
    return y


def any_error(x: torch.Tensor) -> Any:
    try:
        return x.flatten(1) @ torch.ones(5, 2)
    except:  # noqa: E722 (as networks have it)
        return x.mean((2, 3))


def ranks_and_sizes(x: torch.Tensor) -> Any:
    try:
        _, channels, _ = x.shape
    except ValueError:
        _, channels, _, _ = x.shape
    try:
        depth = x.shape[7]
    except IndexError:
        depth = 1
    return x * depth * channels


def within_a_helper(x: torch.Tensor) -> Any:
    try:
        return joined(x)
    except (RuntimeError, TypeError):
        return torch.cat([x, x], 1)
    finally:
        x = x + 1


def joined(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x[:, :, :3]], 1)


def depends_on_data(x: torch.Tensor) -> Any:
    """What fake tensors cannot say is not what torch refuses."""
    try:
        return x.masked_select(x > 0).sum() + x
    except RuntimeError:
        return x


class Model(nn.Module):
    def __init__(self, step: Any) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: torch.Tensor) -> Any:
        return self.step(x)


@pytest.mark.parametrize(
    "step", [view_or_reshape, view_that_fits, any_error, ranks_and_sizes, within_a_helper], ids=lambda step: step.__name__
)
def test_the_branch_is_the_one_that_torch_takes(step: Any) -> None:
    traced = trace(Model(step), X)
    assert torch.equal(traced(X), step(X))


def test_only_what_torch_refuses_is_raised() -> None:
    with pytest.raises(LoweringError, match="masked_select"):
        lower(Model(depends_on_data), X)
