"""Which rows of the op tables speak for which IR op.

A binding names the ONNX ops (opset 11) and the torch op that an IR op becomes. Several ONNX names mean that the op is spelled
out: every part must run on the BPU. Where the names depend on the node (an average pool over the whole map is another ONNX op),
a function chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hqc.ir import Trait, all_ops
from hqc.march.facts import Facts
from hqc.march.predicates import kernel
from hqc.registry import Registry

Choose = Callable[[Facts], "tuple[str, ...]"]


@dataclass(frozen=True)
class Binding:
    """`onnx`, `torch`: row names; `choose` picks among the ONNX names, `choose_torch` among the torch names, by node.
    `never`: why the op cannot be on a BPU whatever the tables say. `internal`: an op that only passes make."""

    onnx: tuple[str, ...] = ()
    torch: tuple[str, ...] = ()
    choose: Choose | None = None
    choose_torch: Choose | None = None
    never: str = ""
    internal: str = ""

    def onnx_names(self, facts: Facts) -> tuple[str, ...]:
        return self.choose(facts) if self.choose is not None else self.onnx

    def torch_names(self, facts: Facts) -> tuple[str, ...]:
        return self.choose_torch(facts) if self.choose_torch is not None else self.torch


def _linear(facts: Facts) -> tuple[str, ...]:
    """`[N, K]` exports as Gemm, other ranks as MatMul with a constant matrix."""
    return ("Gemm",) if facts.shape is None or len(facts.shape) == 2 else ("MatMul",)


def _pool(facts: Facts, name: str, whole: str) -> tuple[str, ...]:
    if "output_size" in facts.node.attributes and tuple(facts.node.attributes["output_size"]) == (1, 1):
        return (whole,)
    covers = facts.shape is not None and len(facts.shape) == 4 and kernel(facts) == facts.shape[2:]
    return (whole,) if covers and not any(facts.node.attributes.get("padding", ())) else (name,)


def _average(facts: Facts) -> tuple[str, ...]:
    return _pool(facts, "AveragePool", "GlobalAveragePool")


def _maximum(facts: Facts) -> tuple[str, ...]:
    return _pool(facts, "MaxPool", "GlobalMaxPool")


def _quotient(facts: Facts) -> tuple[str, ...]:
    """A quotient by a constant is the product with its reciprocal."""
    return ("Mul",) if facts.divides_by_constant else ("Div",)


def _quotient_in_torch(facts: Facts) -> tuple[str, ...]:
    return ("torch.mul",) if facts.divides_by_constant else ("torch.div",)


def _mean(facts: Facts) -> tuple[str, ...]:
    """A mean over height and width is a global average pool, whether it keeps the axes or not."""
    axes = tuple(sorted(facts.node.attributes["axes"])) if facts.sizes is None else facts.axes
    whole = axes == (2, 3) and (facts.sizes is None or len(facts.sizes) == 4)
    return ("GlobalAveragePool",) if whole else ("ReduceMean",)


def _clamp(facts: Facts) -> tuple[str, ...]:
    bounds = (facts.node.attributes["min"], facts.node.attributes["max"])
    return ("torch.nn.ReLU6",) if bounds == (0.0, 6.0) else ("torch.clamp",)


_UNMODELLED = "its integer arithmetic is not public and hqc has no model of it"
_IMAGES = "the BPU convolves images and rows, not volumes"
_STAGE = "the pass lower-to-integer makes it, for nodes that are on the BPU already"

_INTEGER_OPS = tuple(definition.name for definition in all_ops() if definition.has(Trait.INTEGER))

_TABLE: dict[str, Binding] = {
    # multiply-accumulate
    "conv2d": Binding(("Conv",), ("torch.nn.Conv2d",)),
    "conv_transpose2d": Binding(("ConvTranspose",), ("torch.nn.ConvTranspose2d",)),
    "conv3d": Binding(never=_IMAGES),
    "conv_transpose3d": Binding(never=_IMAGES),
    "linear": Binding(("Gemm", "MatMul"), ("torch.nn.Linear",), choose=_linear),
    "matmul": Binding(("MatMul",), ("torch.matmul",)),
    # activations
    "relu": Binding(("Relu",), ("torch.nn.ReLU",)),
    "clamp": Binding(("Clip",), ("torch.nn.ReLU6", "torch.clamp"), choose_torch=_clamp),
    "sigmoid": Binding(("Sigmoid",), ("torch.nn.Sigmoid",)),
    "tanh": Binding(("Tanh",), ("torch.nn.Tanh",)),
    "silu": Binding((), ("torch.nn.SiLU",)),
    "gelu": Binding((), ("torch.nn.GELU",)),
    "hardswish": Binding(("HardSigmoid", "Mul")),
    "mish": Binding(("Softplus", "Tanh", "Mul")),
    "hardsigmoid": Binding(("HardSigmoid",), ("torch.nn.HardSigmoid",)),
    "leaky_relu": Binding(("LeakyRelu",), ("torch.nn.LeakyReLU",)),
    "prelu": Binding(("PRelu",), ("torch.nn.PReLU",)),
    "elu": Binding(("Elu",), ("torch.nn.ELU",)),
    "selu": Binding(("Selu",), ("torch.selu",)),
    "softplus": Binding(("Softplus",), ("torch.nn.Softplus",)),
    "softsign": Binding(("Softsign",)),
    # functions of one input
    "exp": Binding(("Exp",), ("torch.exp",)),
    "log": Binding(("Log",), ("torch.log",)),
    "sqrt": Binding(("Sqrt",), ("torch.sqrt",)),
    "rsqrt": Binding(("Sqrt", "Reciprocal")),
    "reciprocal": Binding(("Reciprocal",), ("torch.reciprocal",)),
    "pow_scalar": Binding(("Pow",), ("torch.pow",)),
    "sin": Binding(("Sin",), ("torch.sin",)),
    "cos": Binding(("Cos",), ("torch.cos",)),
    "tan": Binding(("Tan",), ("torch.tan",)),
    "atan": Binding(("Atan",), ("torch.atan",)),
    "erf": Binding(("Erf",), ("torch.erf",)),
    "abs": Binding(("Abs",), ("torch.abs",)),
    "neg": Binding(("Neg",)),
    "floor": Binding(("Floor",), ("torch.floor",)),
    "ceil": Binding(("Ceil",), ("torch.ceil",)),
    "round": Binding(("Round",)),
    "sign": Binding(("Sign",)),
    "trunc": Binding(("Sign", "Abs", "Floor", "Mul")),
    "exp2": Binding(("Pow",)),
    "expm1": Binding(("Exp", "Sub")),
    "log2": Binding(("Log", "Mul")),
    "log10": Binding(("Log", "Mul")),
    "log1p": Binding(("Add", "Log")),
    "sinh": Binding(("Sinh",), ("torch.sinh",)),
    "cosh": Binding(("Cosh",), ("torch.cosh",)),
    "asin": Binding(("Asin",), ("torch.asin",)),
    "acos": Binding(("Acos",), ("torch.acos",)),
    "asinh": Binding(("Asinh",), ("torch.asinh",)),
    "acosh": Binding(("Acosh",), ("torch.acosh",)),
    "atanh": Binding(("Atanh",), ("torch.atanh",)),
    "log_sigmoid": Binding(("Neg", "Softplus")),
    "celu": Binding(("Div", "Elu", "Mul")),
    "hardshrink": Binding(("Abs", "Greater", "Where")),
    "softshrink": Binding(("Abs", "Sub", "Relu", "Sign", "Mul")),
    "tanhshrink": Binding(("Tanh", "Sub")),
    "threshold": Binding(("Greater", "Where")),
    # element-wise on several tensors
    "add": Binding(("Add",), ("torch.add",)),
    "sub": Binding(("Sub",), ("torch.sub",)),
    "mul": Binding(("Mul",), ("torch.mul",)),
    "div": Binding(("Div", "Mul"), ("torch.div", "torch.mul"), choose=_quotient, choose_torch=_quotient_in_torch),
    "maximum": Binding(("Max",), ("torch.maximum",)),
    "minimum": Binding(("Min",), ("torch.minimum",)),
    "pow": Binding(("Pow",), ("torch.pow",)),
    "equal": Binding(("Equal",), ("torch.eq",)),
    "greater": Binding(("Greater",), ("torch.gt",)),
    "less": Binding(("Less",), ("torch.lt",)),
    "greater_equal": Binding(("GreaterOrEqual",), ("torch.ge",)),
    "less_equal": Binding(("LessOrEqual",), ("torch.le",)),
    "logical_and": Binding(("And",)),
    "logical_or": Binding(("Or",)),
    "logical_not": Binding(("Not",)),
    "where": Binding(("Where",)),
    "cast": Binding(("Cast",)),
    # layout
    "reshape": Binding(("Reshape",), ("torch.Tensor.reshape",)),
    "transpose": Binding(("Transpose",), ("torch.Tensor.transpose",)),
    "slice": Binding(("Slice",), ("torch.Tensor.__getitem__",)),
    "split": Binding(("Split",), ("torch.split",)),
    "cat": Binding(("Concat",), ("torch.cat",)),
    "pad": Binding(("Pad",), ("F.pad",)),
    "pixel_shuffle": Binding(("DepthToSpace",), ("torch.nn.PixelShuffle",)),
    "pixel_unshuffle": Binding(("SpaceToDepth",), ("torch.nn.PixelUnshuffle",)),
    "expand": Binding(("Expand",), ("torch.Tensor.expand",)),
    "tile": Binding(("Tile",), ("torch.Tensor.tile",)),
    "gather": Binding(("Gather",)),
    # pools and resize
    "max_pool2d": Binding(("MaxPool", "GlobalMaxPool"), ("torch.nn.MaxPool2d",), choose=_maximum),
    "adaptive_max_pool2d": Binding(("MaxPool", "GlobalMaxPool"), choose=_maximum),
    "avg_pool2d": Binding(("AveragePool", "GlobalAveragePool"), ("torch.nn.AvgPool2d",), choose=_average),
    "adaptive_avg_pool2d": Binding(("AveragePool", "GlobalAveragePool"), ("torch.nn.AdaptiveAvgPool2d",), choose=_average),
    "resize2d": Binding(("Resize",), ("F.interpolate",)),
    "grid_sample": Binding(("GridSample",), ("F.grid_sample",)),
    # reductions
    "mean": Binding(("ReduceMean", "GlobalAveragePool"), ("torch.mean",), choose=_mean),
    "sum": Binding(("ReduceSum",), ("torch.sum",)),
    "reduce_max": Binding(("ReduceMax",), ("torch.max",)),
    "reduce_min": Binding(("ReduceMin",), ("torch.min",)),
    "reduce_l1": Binding(("ReduceL1",)),
    "reduce_l2": Binding(("ReduceL2",)),
    "reduce_sum_square": Binding(("ReduceSumSquare",)),
    "reduce_log_sum": Binding(("ReduceLogSum",)),
    "reduce_log_sum_exp": Binding(("ReduceLogSumExp",)),
    "argmax": Binding(("ArgMax",), ("torch.argmax",)),
    "argmin": Binding(("ArgMin",), ("torch.argmin",)),
    "softmax": Binding(("Softmax",), ("torch.nn.Softmax",)),
    "log_softmax": Binding(("LogSoftmax",)),
    # normalizations
    "batch_norm": Binding(("BatchNormalization",), ("torch.nn.BatchNorm2d",)),
    "layer_norm": Binding((), ("torch.nn.LayerNorm",), never=_UNMODELLED),
    "group_norm": Binding(("InstanceNormalization",)),
    "lp_normalize": Binding(("LpNormalization",)),
    "instance_norm": Binding(("InstanceNormalization",)),
    # no arithmetic of their own
    "identity": Binding((), ("torch.nn.Identity",), internal="it does nothing and stays with its producer"),
    "dropout": Binding((), ("torch.nn.Dropout",), internal="it does nothing in inference and stays with its producer"),
    "opaque": Binding(never="it is a call that the IR does not look into, so it runs as a whole on the CPU"),
    # made by passes
    "quantize": Binding(internal="a boundary of the BPU, on the CPU's side"),
    "dequantize": Binding(internal="a boundary of the BPU, on the CPU's side"),
    "gain_pool2d": Binding(internal="the pass settle-rounding makes it, for averages that are on the BPU already"),
    "requantize": Binding(internal="the BPU's own change of scale"),
    **{name: Binding(internal=_STAGE) for name in _INTEGER_OPS},
}

BINDINGS: Registry[str, Binding] = Registry("binding to the march tables", entries=_TABLE)
