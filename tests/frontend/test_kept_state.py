"""What forward keeps for its next call: a plan of the first call must be one of every call, or there is none."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hqc.errors import TraceError
from hqc.frontend.fx import trace

_T = torch.Tensor


class Net(nn.Module):
    """A convolution, and `step`, which is `forward` but for it."""

    def __init__(self, step: Callable[[Any, _T], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.lstm = nn.LSTM(8, 8, batch_first=True)
        self.step = step
        self.prev: Any = None
        self.count = 0
        self.shape: Any = None
        self.cache: dict[Any, Any] = {}
        self.frames: list[Any] = []
        self.grids = [torch.empty(0)] * 2
        self.register_buffer("table", torch.zeros(16))

    def forward(self, x: _T) -> Any:
        return self.step(self, self.conv(x))


class Holder:
    last: Any = None


def frame_before(net: Any, x: _T) -> _T:
    y = x if net.prev is None else x + net.prev
    net.prev = x
    return y


def frame_before_itself(net: Any, x: _T) -> _T:
    if net.prev is None:
        net.prev = x
    y = torch.cat([x, net.prev], 1)
    net.prev = x
    return y


def moving_average(net: Any, x: _T) -> _T:
    if net.prev is None:
        net.prev = torch.zeros_like(x)
    y = 0.5 * x + 0.5 * net.prev
    net.prev = y.detach()
    return y


def hidden_state(net: Any, x: _T) -> _T:
    y, net.prev = net.lstm(x[:, 0], net.prev)
    return y


def counter(net: Any, x: _T) -> _T:
    net.count += 1
    return x if net.count > 5 else x * 2


def only_the_first(net: Any, x: _T) -> _T:
    if net.count == 0:
        net.count = 1
        return x * 3
    return x


def queue(net: Any, x: _T) -> _T:
    x = x.relu()
    net.frames.append(x)
    if len(net.frames) > 4:
        net.frames.pop(0)
    return torch.stack(net.frames).mean(0)


def kept_in_a_dict(net: Any, x: _T) -> _T:
    x = x.relu()
    y = x + net.cache.get("key", 0)
    net.cache["key"] = x
    return y


def kept_in_an_object(net: Any, x: _T) -> _T:
    x = x.relu()
    holder = net.cache.setdefault("holder", Holder())
    y = x if holder.last is None else x * holder.last
    holder.last = x
    return y


def branch_on_the_frame_before(net: Any, x: _T) -> _T:
    if net.prev is not None and (x - net.prev).abs().mean() > 0.1:
        x = x + 1
    net.prev = x
    return x


def counting_tensor(net: Any, x: _T) -> _T:
    net.grids[0] = torch.ones(1) if net.count == 0 else net.grids[0] + 1
    net.count = 1
    return x * net.grids[0]


def fresh_buffer(net: Any, x: _T) -> _T:
    if not hasattr(net, "made"):
        net.register_buffer("made", x.mean())
    return x + net.made


def through_export(net: Any, x: _T) -> _T:
    y = torch.vmap(lambda each: each * 2)(x)
    if net.prev is not None:
        y = y + net.prev
    net.prev = y
    return y


def reset_in_every_call(net: Any, x: _T) -> _T:
    net.prev = (torch.zeros(1, x.size(0), 8), torch.zeros(1, x.size(0), 8))
    y, net.prev = net.lstm(x[:, 0], net.prev)
    return y


def stored_for_others(net: Any, x: _T) -> _T:
    net.prev = x
    net.frames.append(x.mean())
    net.cache["features"] = x
    return x.relu()


def harmless_counter(net: Any, x: _T) -> _T:
    net.count += 1
    return x.relu()


def cached_by_shape(net: Any, x: _T) -> _T:
    key = (x.shape[2], x.shape[3])
    if key not in net.cache:
        row = torch.arange(x.shape[3], device=x.device).float()
        net.cache[key] = row[None, None, None, :].expand(1, 1, x.shape[2], x.shape[3])
    return x + net.cache[key]


def grids(net: Any, x: _T) -> _T:
    _, _, height, width = x.shape
    if net.grids[0].shape[2:4] != x.shape[2:4]:
        rows, columns = torch.meshgrid([torch.arange(height), torch.arange(width)], indexing="ij")
        net.grids[0] = torch.stack((columns, rows), 2).view((1, 1, height, width, 2)).float().to(x.device)
    return x.sigmoid()[..., None] * 2 + net.grids[0]


def anchors(net: Any, x: _T) -> _T:
    if net.shape != x.shape:
        net.prev = (torch.zeros_like(x) + 1).type_as(x)
        net.shape = x.shape
    return x + net.prev


def written_mask(net: Any, x: _T) -> _T:
    _, _, height, width = x.shape
    if (height, width) not in net.cache:
        mask = torch.zeros((1, 1, height, width), device=x.device)
        for index, rows in enumerate((slice(0, 4), slice(4, None))):
            mask[:, :, rows] = index
        net.cache[(height, width)] = mask
    return x + net.cache[(height, width)]


def buffer_of_sizes(net: Any, x: _T) -> _T:
    if not hasattr(net, "positions"):
        net.register_buffer("positions", torch.arange(x.shape[-1]).float())
    return x + net.positions


def moved_in_every_call(net: Any, x: _T) -> _T:
    net.grids[1] = (net.grids[1] if net.grids[1].numel() else torch.ones(1)).type_as(x).to(x.device)
    return x - net.grids[1]


def filled_table(net: Any, x: _T) -> _T:
    """As rotary embeddings keep their angles: the first call fills a part of a buffer, the next ones read it."""
    length = x.shape[-1]
    if net.count < length:
        net.table[:length] = torch.arange(length).float() * net.conv.bias[0].detach()
        net.count = length
        return x + net.table[:length] * 1
    return x + net.table[:length]


def filled_with_data(net: Any, x: _T) -> _T:
    """The same of the first input: it is another table for every first call."""
    if net.count < 8:
        net.table[:8] = x[0, 0, 0].detach()
        net.count = 8
        return x + x[0, 0, 0]
    return x + net.table[:8]


KEPT = {
    frame_before: "prev",
    frame_before_itself: "prev",
    moving_average: "prev",
    hidden_state: "prev",
    counter: "count",
    only_the_first: "count",
    queue: "frames[0]",
    kept_in_a_dict: "cache['key']",
    kept_in_an_object: "cache['holder'].last",
    branch_on_the_frame_before: "prev",
    counting_tensor: "grids[0]",
    fresh_buffer: "made",
    through_export: "prev",
    filled_with_data: "count",
}
HARMLESS = [
    reset_in_every_call,
    stored_for_others,
    harmless_counter,
    cached_by_shape,
    grids,
    anchors,
    written_mask,
    buffer_of_sizes,
    moved_in_every_call,
    filled_table,
]


def _net(step: Callable[[Any, _T], Any]) -> Net:
    torch.manual_seed(0)
    return Net(step).eval()


def _frames() -> list[_T]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(7)]


def _later(net: Net) -> tuple[_T, _T]:
    """What a call gives after others, and as the first one."""
    *others, last = _frames()
    first = copy.deepcopy(net)
    for frame in others:
        net(frame)
    with torch.no_grad():
        return net(last), first(last)


@pytest.mark.parametrize("step", KEPT, ids=lambda step: step.__name__)
def test_what_changes_later_calls_is_refused_by_its_name_and_line(step: Callable[[Any, _T], Any]) -> None:
    net = _net(step)
    with pytest.raises(TraceError) as caught:
        trace(net, _frames()[0])
    sentence = str(caught.value)
    assert "forward keeps " in sentence
    assert KEPT[step] in sentence.partition(" from one call")[0].partition("forward keeps ")[2].split(", ")
    assert "take it as an input of forward" in sentence
    if step is not through_export:
        found = re.match(r".*test_kept_state\.py:(\d+): ", sentence)
        assert found is not None
        begin = step.__code__.co_firstlineno
        assert begin < int(found[1]) <= max(line for _, _, line in step.__code__.co_lines() if line is not None)
    assert net.prev is None
    assert net.count == 0
    assert not net.cache
    assert not net.frames
    later, first = _later(net)
    assert not torch.allclose(later, first)  # a plan of the first call would have been wrong


@pytest.mark.parametrize("step", HARMLESS, ids=lambda step: step.__name__)
def test_what_changes_no_later_call_is_accepted(step: Callable[[Any, _T], Any]) -> None:
    net = _net(step)
    traced = trace(net, _frames()[0])
    later, _ = _later(net)
    assert torch.allclose(traced(_frames()[-1]), later, atol=1e-6)


def test_every_module_is_named() -> None:
    net = nn.Sequential(_net(frame_before), _net(harmless_counter), _net(frame_before))
    with pytest.raises(TraceError, match=r"forward keeps 0\.prev, 2\.prev from one call"):
        trace(net)


def test_random_numbers_are_no_state() -> None:
    def noisy(net: Any, x: _T) -> _T:
        net.count += 1
        return x + torch.rand(1)

    assert trace(_net(noisy), _frames()[0]) is not None


class Windowed(nn.Module):
    """Moves a plain attribute to its input's device, as SincNet does: when its value is asked for, it is a proxy already."""

    def __init__(self) -> None:
        super().__init__()
        self.window, self.norm = torch.arange(8.0), nn.BatchNorm1d(8)

    def forward(self, x: _T) -> _T:
        self.window = self.window.to(x.device)
        return self.norm(x * self.window)  # which checks the shape it gets


def test_an_attribute_is_known_as_it_was_when_it_was_read() -> None:
    model, x = Windowed().eval(), torch.rand(2, 8)
    assert torch.equal(trace(model, x)(x), model(x))
    assert torch.equal(model.window, torch.arange(8.0))


class KeepsItsDevice(nn.Module):
    """Notes the device of what it computes, behind a write in place: what the device was read from is nothing that a next call needs."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 4)

    def forward(self, x: _T) -> _T:
        y = self.project(x).masked_fill_(x > 0.5, 0.0)
        z = y.softmax(-1) @ self.project.weight
        self.device, self.dtype = z.device, z.dtype
        return z


def test_a_device_that_is_noted_is_the_same_in_every_call() -> None:
    model, x = KeepsItsDevice().eval(), torch.rand(2, 4)
    torch.testing.assert_close(trace(model, x)(x), model(x))


@pytest.mark.parametrize("by_export", [False, True], ids=["traced", "exported"])
def test_a_state_that_python_cannot_copy_is_refused_as_a_state(by_export: bool) -> None:
    def step(net: Any, x: _T) -> _T:
        y = torch.vmap(lambda row: row * 2)(x) if by_export else x * 2
        y = y if net.prev is None else y + net.prev
        net.prev = y
        return y

    net = _net(step)
    net(_frames()[0])  # with gradients: what it keeps is no leaf
    with pytest.raises(TraceError, match="prev"):
        trace(net, _frames()[1])
