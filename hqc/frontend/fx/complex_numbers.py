"""Complex tensors of a trace: pairs of real ones. The IR, the BPU and opset 11 have no complex numbers.

`torch.stft`, `torch.fft.*`, `torch.complex`, `torch.polar` and `torch.view_as_complex` of traced tensors give a `ComplexProxy`, and so do
complex parameters, complex numbers and constants that meet a traced tensor (`1j * phase`), and what is made of a complex dtype
(`torch.zeros(n, c, h, w, dtype=torch.cfloat)`); the nodes are calls of `spectra.py` on the parts. A step that has no real form here is
refused by name.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from hqc.errors import TraceError
from hqc.frontend.fx import spectra
from hqc.frontend.fx.locations import user_source
from hqc.frontend.fx.proxies import RecordingProxy, find_proxy
from hqc.structures import leaves

_ON_BOTH = frozenset((
    "reshape", "view", "permute", "transpose", "swapaxes", "unsqueeze", "squeeze", "flatten", "unflatten", "contiguous", "clone",
    "roll", "flip", "sum", "mean", "expand", "repeat", "movedim", "narrow", "select", "chunk", "split", "neg", "detach", "t",
    "index_select", "cumsum", "getitem", "cat", "stack", "concat", "fftshift", "ifftshift", "fft_fftshift", "fft_ifftshift",
    "zeros_like", "new_zeros",
))  # fmt: skip
"""Steps that are linear, or only move numbers: done to both parts."""
_FUNCTIONS_BY_NAME = {"stft", "istft", "complex", "polar", "view_as_complex"}
_ZEROS = {"zeros": "zeros", "empty": "zeros", "zeros_like": "zeros_like", "empty_like": "zeros_like"}
_ZEROS |= {"new_zeros": "new_zeros", "new_empty": "new_zeros"}
"""What makes a tensor whose elements are 0, or are written before they are read, and its zeros."""
_CONVERSIONS = {"to", "type", "cfloat"}


class ComplexProxy(RecordingProxy):
    """A traced complex tensor. `real`, `imag`: proxies of its parts."""

    _hqc_alike = torch.empty(0, dtype=torch.complex64)

    def __init__(self, real: Any, imag: Any) -> None:
        self.real, self.imag, self.tracer = real, imag, real.tracer

    @property
    def node(self) -> fx.Node:  # type: ignore[override]
        """Nobody may take a part for the whole."""
        raise _refused(self.tracer, "a step that takes a complex tensor")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", str(function))
        proxy = find_proxy((args, kwargs or {}))
        if name == "__setitem__":
            proxy.tracer.refuse_write_into_constant(operator.setitem, args)
        return _step(name.removeprefix("linalg_"), args, dict(kwargs or {}), proxy.tracer)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "device", "ndim", "is_cuda"):
            return getattr(self.real, name)
        if name == "dtype":
            return torch.complex64
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("T", "mT"):
            return ComplexProxy(getattr(self.real, name), getattr(self.imag, name))
        return lambda *args, **kwargs: _step(name, (self, *args), kwargs, self.tracer)

    def __getitem__(self, index: Any) -> Any:
        return _step("getitem", (self, index), {}, self.tracer)

    def __setitem__(self, index: Any, value: Any) -> None:
        real, imag = _parts(value)
        self.real[index] = real
        self.imag[index] = 0.0 if imag is None else imag

    def __iter__(self) -> Any:
        return iter([self[index] for index in range(len(self.real))])

    def __len__(self) -> int:
        return len(self.real)

    def __abs__(self) -> Any:
        return _step("abs", (self,), {}, self.tracer)

    def __neg__(self) -> Any:
        return _step("neg", (self,), {}, self.tracer)


def _operator(name: str, swapped: bool) -> Callable[[Any, Any], Any]:
    def method(self: Any, other: Any) -> Any:
        return _step(name, (other, self) if swapped else (self, other), {}, self.tracer)

    return method


for _name in ("add", "sub", "mul", "truediv", "matmul", "pow"):
    for _prefix in ("", "r", "i"):
        setattr(ComplexProxy, f"__{_prefix}{_name}__", _operator(_name, _prefix == "r"))


def _refused(tracer: Any, what: str) -> TraceError:
    line = user_source(getattr(tracer, "_stop", None))
    return TraceError(
        f"{line + ': ' if line else ''}{what} has no real form that hqc knows, and neither a BPU nor opset 11 has complex numbers; compute "
        "with real and imaginary parts, or run this step outside of the model"
    )


def refuse_complex_results(result: Any) -> None:
    """`TraceError` where forward returns complex tensors, which no file and no simulated program can hold."""
    if any(isinstance(leaf, ComplexProxy) for leaf in leaves(result)):
        raise TraceError(
            "forward returns a complex tensor, and neither a BPU nor opset 11 has complex numbers; return its parts "
            "(torch.view_as_real(x), or x.real and x.imag)"
        )


def complex_step(tracer: Any, target: Any, args: Any, kwargs: Any) -> Any:
    """What a call gives that makes complex numbers of real proxies, or takes some; NotImplemented for any other call."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if name in _ZEROS or (name in _CONVERSIONS and isinstance(target, str)):
        made = _of_complex_dtype(tracer, target, name, args, kwargs)
        if made is not NotImplemented:
            return made
    if (name in _STEPS or name in _ON_BOTH) and any(map(_is_complex, args)):
        return _step(name, args, dict(kwargs), tracer)
    if name not in _FUNCTIONS_BY_NAME and not name.startswith("fft_"):
        return NotImplemented
    if isinstance(target, str) and name not in ("stft", "istft"):
        return NotImplemented
    if name in ("fft_fftfreq", "fft_rfftfreq", "fft_fftshift", "fft_ifftshift"):
        return NotImplemented
    return _step(name, args, dict(kwargs), tracer)


def complex_parameter(tracer: Any, parameter: fx.Proxy) -> ComplexProxy:
    """The parts of a complex parameter, which the model keeps, and trains, as it is."""
    return _as_complex(tracer, tracer.create_proxy("call_function", torch.view_as_real, (parameter,), {}))


def _is_complex(item: Any) -> bool:
    """True for a complex number or constant, one in a list of tensors included."""
    if isinstance(item, (list, tuple)):
        return any(isinstance(each, torch.Tensor) and each.is_complex() for each in item)
    return isinstance(item, complex) or (isinstance(item, torch.Tensor) and item.is_complex())


def _of_complex_dtype(tracer: Any, target: Any, name: str, args: Any, kwargs: Any) -> Any:
    """What a factory or a conversion gives whose dtype is complex; NotImplemented for another."""

    def is_complex(item: Any) -> bool:
        return isinstance(item, torch.dtype) and item.is_complex

    if name != "cfloat" and not any(map(is_complex, (*args, *kwargs.values()))):
        return NotImplemented
    if name in _CONVERSIONS:
        return ComplexProxy(*_both(tracer, args[0]))
    args = tuple(torch.float32 if is_complex(item) else item for item in args)
    kwargs = {key: torch.float32 if is_complex(item) else item for key, item in kwargs.items()}
    kind, zeros = ("call_method", _ZEROS[name]) if isinstance(target, str) else ("call_function", getattr(torch, _ZEROS[name]))
    return ComplexProxy(tracer.create_proxy(kind, zeros, args, kwargs), tracer.create_proxy(kind, zeros, args, kwargs))


def _step(name: str, args: Sequence[Any], kwargs: dict[str, Any], tracer: Any) -> Any:
    if name in _TRANSFORMS:
        return _transformed(tracer, name, *args, **kwargs)
    if name in _STEPS:
        return _STEPS[name](tracer, *args, **kwargs)
    if name in _ON_BOTH:
        return _on_both(tracer, name, args, kwargs)
    raise _refused(tracer, f"{name.removeprefix('fft_')} of a complex tensor")


def _call(tracer: Any, function: Callable[..., Any], *args: Any) -> Any:
    return tracer.create_proxy("call_function", function, args, {})


def _pair(tracer: Any, function: Callable[..., Any], *args: Any) -> ComplexProxy:
    both = _call(tracer, function, *args)
    return ComplexProxy(operator.getitem(both, 0), operator.getitem(both, 1))


def _parts(item: Any) -> tuple[Any, Any]:
    """Real and imaginary part; None for an imaginary part of 0."""
    if isinstance(item, ComplexProxy):
        return item.real, item.imag
    if isinstance(item, torch.Tensor) and item.is_complex():
        return item.real.contiguous(), item.imag.contiguous()
    if isinstance(item, complex):
        return item.real, item.imag
    return item, None


def _has_parts(item: Any) -> bool:
    return isinstance(item, ComplexProxy) or _is_complex(item)


def _both(tracer: Any, item: Any) -> tuple[Any, Any]:
    """Real and imaginary part of a number or a tensor, real ones included."""
    real, imag = _parts(item)
    if imag is None:
        imag = _call(tracer, torch.zeros_like, real) if isinstance(real, (fx.Proxy, torch.Tensor)) else 0.0
    return real, imag


def _on_both(tracer: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    def of(part: int) -> Any:
        def taken(item: Any) -> Any:
            if isinstance(item, (list, tuple)) and any(isinstance(each, (fx.Proxy, torch.Tensor)) for each in item):
                return [_both(tracer, each)[part] for each in item] if any(map(_has_parts, item)) else item
            return _both(tracer, item)[part] if _has_parts(item) else item

        if name == "getitem":
            return operator.getitem(taken(args[0]), args[1])
        function = getattr(torch.fft if name.endswith("shift") else torch, name.removeprefix("fft_"), None)
        first, *rest = map(taken, args)
        if not hasattr(torch.Tensor, name) or isinstance(first, list):
            return function(first, *rest, **kwargs)  # type: ignore[misc]
        return getattr(first, name)(*rest, **kwargs)

    real, imag = of(0), of(1)
    if name in ("chunk", "split"):
        return [ComplexProxy(a, b) for a, b in zip(real, imag, strict=True)]
    return ComplexProxy(real, imag)


# --- arithmetic -------------------------------------------------------------------------------------------------------------------


def _added(sign: int) -> Callable[..., Any]:
    def step(tracer: Any, left: Any, right: Any, *, alpha: float = 1) -> Any:
        (a, b), (c, d) = _parts(left), _parts(right)
        factor = sign * alpha
        real = a + c if factor == 1 else a - c if factor == -1 else a + c * factor
        if d is None:
            return ComplexProxy(real, b)
        moved = d if factor == 1 else d * factor
        return ComplexProxy(real, moved if b is None else b + moved)

    return step


def _multiplied(tracer: Any, left: Any, right: Any) -> Any:
    (a, b), (c, d) = _parts(left), _parts(right)
    if b is None and d is not None:
        (a, b), (c, d) = (c, d), (a, b)
    return _pair(tracer, spectra.product, a, b, c, d)


def _divided(tracer: Any, left: Any, right: Any) -> Any:
    (a, b), (c, d) = _parts(left), _parts(right)
    return _pair(tracer, spectra.quotient, a, b, c, d)


def _power(tracer: Any, base: Any, exponent: Any) -> Any:
    if not isinstance(base, ComplexProxy) or exponent != 2:
        raise _refused(tracer, f"a power of {exponent} of a complex tensor")
    return _multiplied(tracer, base, base)


def _matrix_product(tracer: Any, left: Any, right: Any) -> Any:
    return _contracted(tracer, None, left, right)


def _einsum(tracer: Any, equation: str, *operands: Any) -> Any:
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if len(operands) != 2:
        raise _refused(tracer, f"an einsum of {len(operands)} complex tensors")
    return _contracted(tracer, equation, *operands)


def _contracted(tracer: Any, equation: str | None, left: Any, right: Any) -> Any:
    (a, b), (c, d) = _parts(left), _parts(right)
    if b is None or d is None:
        raise _refused(tracer, "a product of a real matrix and a complex one")
    return _pair(tracer, spectra.contracted, equation, a, b, c, d)


def _where(tracer: Any, condition: Any, left: Any, right: Any) -> ComplexProxy:
    """`torch.where`, and the method, which has the condition in the middle."""
    if isinstance(condition, ComplexProxy):
        condition, left = left, condition
    (a, b), (c, d) = _both(tracer, left), _both(tracer, right)
    return ComplexProxy(torch.where(condition, a, c), torch.where(condition, b, d))


def _as_complex(tracer: Any, x: Any) -> ComplexProxy:
    return ComplexProxy(x[..., 0], x[..., 1])


def _as_real(tracer: Any, x: ComplexProxy) -> Any:
    return torch.stack([x.real, x.imag], -1)


def _size(tracer: Any, x: ComplexProxy, *args: Any) -> Any:
    return x.real.size(*args)


# --- transforms -------------------------------------------------------------------------------------------------------------------

_TRANSFORMS = {f"fft_{kind}fft{rank}" for kind in ("", "i", "r", "ir") for rank in ("", "2", "n")}


def _transformed(tracer: Any, name: str, input: Any, *args: Any, **kwargs: Any) -> Any:
    """One transform after the other along each dimension; the half one first, or last."""
    name = name.removeprefix("fft_")
    kind, rank = name.partition("fft")[0], name.partition("fft")[2]
    names = ("n", "dim", "norm") if not rank else ("s", "dim", "norm")
    given = dict(zip(names, args, strict=False)) | kwargs
    re, im = _parts(input)
    shape = _shape(tracer, re)
    dims, sizes = _dims(given, rank, shape)
    norm = given.get("norm")
    inverse = kind.startswith("i")
    points = [int(size) if size is not None and size != -1 else shape[dim] for dim, size in zip(dims, sizes, strict=True)]
    if kind == "ir" and sizes[-1] in (None, -1):
        points[-1] = 2 * (shape[dims[-1]] - 1)
    plain = list(zip(dims, points, strict=True))
    if kind == "r":
        if im is not None:
            raise _refused(tracer, "rfft of a complex tensor")
        dim, count = plain.pop()
        both = _pair(tracer, spectra.half_transform, re, count, dim, norm)
        re, im = both.real, both.imag
    last = plain.pop() if kind == "ir" else None
    for dim, count in reversed(plain):
        both = _pair(tracer, spectra.transform, re, im, count, dim, norm, inverse)
        re, im = both.real, both.imag
    if last is None:
        return ComplexProxy(re, im)
    return _call(tracer, spectra.from_half, *_both(tracer, re if im is None else ComplexProxy(re, im)), last[1], last[0], norm)


def _shape(tracer: Any, x: Any) -> list[int]:
    value = tracer.known.of(x.node) if isinstance(x, fx.Proxy) else x
    if not isinstance(value, torch.Tensor):
        raise TraceError(
            f"{user_source(getattr(tracer, '_stop', None))}: a Fourier transform needs the sizes of its input; give example_inputs"
        )
    return [int(size) for size in value.shape]


def _dims(given: dict[str, Any], rank: str, shape: list[int]) -> tuple[list[int], list[Any]]:
    """The dimensions to transform, and the sizes asked for."""
    if not rank:
        dim = given.get("dim", -1)
        return [int(dim) % len(shape)], [given.get("n")]
    size, dims = given.get("s"), given.get("dim", (-2, -1) if rank == "2" else None)
    if dims is None:
        dims = range(-len(size), 0) if size is not None else range(len(shape))
    dims = [int(dim) % len(shape) for dim in ([dims] if isinstance(dims, int) else dims)]
    return dims, list(size) if size is not None else [None] * len(dims)


def _frames(n_fft: int, hop_length: int | None, win_length: int | None, window: Any) -> tuple[int, Any]:
    """The steps between frames and their window, with torch's defaults; None for a window of ones as long as a frame."""
    if window is None and win_length is not None and win_length != n_fft:
        window = torch.ones(win_length)
    return hop_length if hop_length is not None else n_fft // 4, window


def _stft(
    tracer: Any,
    input: Any,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Any:
    if isinstance(input, ComplexProxy) or align_to_window:
        raise _refused(tracer, "stft of a complex tensor, or aligned to the window,")
    hop, window = _frames(n_fft, hop_length, win_length, window)
    one = onesided is not False
    found = _pair(tracer, spectra.short_time, input, window, n_fft, hop, center, pad_mode, normalized, one)
    return found if return_complex else _as_real(tracer, found)


def _istft(
    tracer: Any,
    input: Any,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Any = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Any:
    if not isinstance(input, ComplexProxy) or onesided is False or return_complex:
        raise _refused(tracer, "istft of a real or two-sided spectrum")
    hop, window = _frames(n_fft, hop_length, win_length, window)
    return _call(tracer, spectra.overlapped, *_parts(input), window, n_fft, hop, center, normalized, length)


def _padded(tracer: Any, x: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    real, imag = (None, None) if value is None else _parts_of_number(tracer, value)
    return ComplexProxy(F.pad(x.real, pad, mode, real), F.pad(x.imag, pad, mode, imag))


def _masked_fill(tracer: Any, x: Any, mask: Any, value: Any) -> Any:
    real, imag = _parts_of_number(tracer, value)
    return ComplexProxy(x.real.masked_fill(mask, real), x.imag.masked_fill(mask, imag))


def _index_fill(tracer: Any, x: Any, dim: Any, index: Any, value: Any) -> Any:
    real, imag = _parts_of_number(tracer, value)
    return ComplexProxy(x.real.index_fill(dim, index, real), x.imag.index_fill(dim, index, imag))


def _parts_of_number(tracer: Any, value: Any) -> tuple[float, float]:
    if not isinstance(value, (int, float, complex)):
        raise _refused(tracer, "a complex tensor filled with a tensor")
    return complex(value).real, complex(value).imag


_STEPS: dict[str, Callable[..., Any]] = {
    "pad": _padded,
    "masked_fill": _masked_fill,
    "index_fill": _index_fill,
    "add": _added(1),
    "sub": _added(-1),
    "mul": _multiplied,
    "multiply": _multiplied,
    "div": _divided,
    "truediv": _divided,
    "true_divide": _divided,
    "pow": _power,
    "square": lambda tracer, x: _multiplied(tracer, x, x),
    "reciprocal": lambda tracer, x: _divided(tracer, 1.0, x),
    "where": _where,
    "matmul": _matrix_product,
    "bmm": _matrix_product,
    "einsum": _einsum,
    "abs": lambda tracer, x: _call(tracer, spectra.magnitude, x.real, x.imag),
    "absolute": lambda tracer, x: _call(tracer, spectra.magnitude, x.real, x.imag),
    "angle": lambda tracer, x: _call(tracer, spectra.phase, x.real, x.imag),
    "exp": lambda tracer, x: _pair(tracer, spectra.exponential, x.real, x.imag),
    "conj": lambda tracer, x: ComplexProxy(x.real, -x.imag),
    "resolve_conj": lambda tracer, x: x,
    "real": lambda tracer, x: x.real,
    "imag": lambda tracer, x: x.imag,
    "is_complex": lambda tracer, x: True,
    "is_floating_point": lambda tracer, x: False,
    "view_as_real": _as_real,
    "view_as_complex": _as_complex,
    "complex": lambda tracer, real, imag: ComplexProxy(real, imag),
    "polar": lambda tracer, size, angle: _pair(tracer, spectra.of_polar, size, angle),
    "size": _size,
    "dim": lambda tracer, x: x.real.dim(),
    "numel": lambda tracer, x: x.real.numel(),
    "to": lambda tracer, x, *args, **kwargs: x,
    "cpu": lambda tracer, x: x,
    "cuda": lambda tracer, x, *args: x,
    "type": lambda tracer, x, *args: x,
    "stft": _stft,
    "istft": _istft,
}
