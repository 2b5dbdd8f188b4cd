"""Code that asks whether it is traced does what it does in eager mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lowering_harness import Function
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx._symbolic_trace import is_fx_tracing

from hqc.errors import TraceError
from hqc.frontend.fx import trace


def by_proxy(x: Any) -> bool:
    return isinstance(x, fx.Proxy)


def by_fake_tensor(x: Any) -> bool:
    return isinstance(x, (FakeTensor, fx.Proxy))


def by_flag(x: Any) -> bool:
    return is_fx_tracing()


def by_home_of_flag(x: Any) -> bool:
    return fx._symbolic_trace.is_fx_tracing()


def by_compiler(x: Any) -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting()


def by_type(x: Any) -> bool:
    return type(x) is not torch.Tensor or type(x.shape[0]) != int  # noqa: E721 (as users write)


QUESTIONS = [by_proxy, by_fake_tensor, by_flag, by_home_of_flag, by_compiler, by_type]


@pytest.mark.parametrize("is_traced", QUESTIONS)
def test_the_graph_is_that_of_the_eager_model(is_traced: Any) -> None:
    def function(x: Any) -> Any:
        y = x * 2
        return y + 1 if is_traced(y) or is_traced(x) else y - 1

    x = torch.randn(2, 3)
    torch.testing.assert_close(trace(Function(function), x)(x), function(x))


@pytest.mark.parametrize("is_traced", [by_proxy, by_flag])
def test_where_eager_code_looks_at_data_the_graph_is_that_of_traced_code(is_traced: Any) -> None:
    def function(x: Any) -> Any:
        mask = x > 0
        if not is_traced(x) and mask.all():  # a shortcut
            return x * 2
        return x * 2 * mask

    x = torch.tensor([[-1.0, 2.0]])
    torch.testing.assert_close(trace(Function(function), x)(x), function(x))


def test_what_is_refused_seen_and_unseen_is_refused_with_the_line_of_the_eager_code() -> None:
    def function(x: Any) -> Any:
        if not isinstance(x, fx.Proxy) and x.sum() > 0:
            return x * 2
        return x * float(x.mean())

    with pytest.raises(TraceError, match=r":\d+: a branch tests the value of"):
        trace(Function(function), torch.ones(2, 2))


def test_torch_itself_knows_and_nothing_is_left_behind() -> None:
    seen: list[bool] = []

    def function(x: Any) -> Any:
        seen.append(fx._symbolic_trace._is_fx_tracing_flag)
        return x + 1

    before = is_fx_tracing.__code__
    trace(Function(function), torch.ones(2))
    assert seen == [True]
    assert is_fx_tracing.__code__ is before and not is_fx_tracing()
    assert not hasattr(fx._symbolic_trace, "_hqc_is_traced")
