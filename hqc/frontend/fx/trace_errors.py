"""Turns whatever goes wrong while tracing into one sentence about the user's code."""

from __future__ import annotations

from types import FrameType

from torch import fx

from hqc.errors import HqcError, TraceError, first_line
from hqc.frontend.fx.assumptions import is_size
from hqc.frontend.fx.locations import SOURCE_META, describe, traceback_source
from hqc.structures import keys_of

WAYS_OUT = (
    "pass the deciding argument of forward as a constant (concrete_args={...}), put the code into a module named in "
    "leaf_modules=[...], or into a function decorated with @hqc.frontend.fx.wrap; both then run as they are, on the CPU"
)


class ProxyUse(Exception):  # noqa: N818 (internal signal, always translated)
    """A traced tensor was used where Python needs its value."""

    def __init__(self, what: str, node: fx.Node, reason: str = "") -> None:
        super().__init__(what)
        self.what, self.node, self.reason = what, node, reason


def explain(error: BaseException, model_name: str, stop: FrameType | None) -> TraceError:
    """The TraceError for `error`, raised while tracing inside the frame `stop`."""
    source = traceback_source(error.__traceback__, stop)
    where = f"{source}: " if source else f"{model_name}: "
    if isinstance(error, TraceError):
        return error
    if isinstance(error, HqcError):
        return TraceError(f"{where}{error}")
    if isinstance(error, ProxyUse):
        if is_size(error.node) and not error.reason:
            return TraceError(f"{where}{error.what} a size, {_value(error.node)}; give example_inputs so that sizes are known")
        known = f"; {error.reason}" if error.reason else ""
        return TraceError(
            f"{where}{error.what} {_value(error.node)}, which is known only when the model runs{known}; {WAYS_OUT}"
        )
    text = first_line(error)
    if "'len' is not supported" in text:
        return TraceError(f"{where}len() of a traced tensor is not known while tracing; use x.shape[0], or {WAYS_OUT}")
    if isinstance(error, NameError) and "not installed as a submodule" in text:
        return TraceError(
            f"{where}a module is called that is not a submodule of {model_name}; assign it to an attribute in __init__ "
            f"(lists and dicts of modules as nn.ModuleList and nn.ModuleDict)"
        )
    if "Proxy" in text or isinstance(error, fx.proxy.TraceError):
        return TraceError(f"{where}Python needs the value of a traced tensor ({text}); {WAYS_OUT}")
    return TraceError(f"{where}the model raised {type(error).__name__} while it was traced: {text}")


def _value(node: fx.Node) -> str:
    source = node.meta.get(SOURCE_META, "")
    return f"{describe(node)}, computed at {source}" if source else describe(node)


_KEYS = (str, int, float, bool, type(None))


def refuse_odd_keys(graph: fx.Graph) -> None:
    """`TraceError` for a result that is a dict by anything but names and numbers: its keys are written into code and into files."""
    for node in graph.nodes:
        if node.op == "output":
            odd = next((key for key in keys_of(node.args[0]) if type(key) not in _KEYS), None)
            if odd is not None:
                raise TraceError(
                    f"the model returns a dict with a {type(odd).__name__} as a key; a key must be a text, a number or None"
                )
