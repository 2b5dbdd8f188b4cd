"""IR text: statements drawn from the grammar, and mutations of real graphs, read and then used."""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path

import numpy as np

from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.material import MARCHES, compiled, odd_text
from hqc.backends import bpu, onnx
from hqc.ir import Graph, all_ops, parse, verify
from hqc.march import get_spec
from hqc.passes import parse_pipeline
from hqc.passes.base import PassContext

_TOKEN = re.compile(r'"[^"\n]*"|[\w.]+|\s+|.', re.DOTALL)
_PIPELINES = (
    "canonicalize", "canonicalize,fold-batch-norm,fuse-conv", "analyze-support", "canonicalize,analyze-support,partition,insert-boundaries",
    "constant-folding", "analyze-support,partition{min-macs=10}", "canonicalize{x=1}", "partition{min-nodes=99999999999999999999}",
)  # fmt: skip


@functools.cache
def _corpus() -> tuple[str, ...]:
    small = (
        "input %x: f32[1,3,8,8]\nparam @w = #random(1, [4,3,3,3])\n%y = conv2d(%x, @w) {padding=[1,1,1,1]}\n%z = relu(%y)\noutput %z\n",
        "input %x: f32[2,4]\n%a = add(%x, %x)\n%b = softmax(%a) {axis=1}\n%c = cat(%a, %b) {axis=1}\noutput %c\n",
        'input %x: f32[1,4,4,4]\n%p = max_pool2d(%x) {kernel=[2,2], stride=[2,2]}\n%r = reshape(%p) {shape=[1,-1]}\noutput %r as "out"\n',
        "input %x: f32[?,3,?,?]\n%y = relu(%x)\noutput %y\n",
    )
    return (*small, str(compiled().graph), str(compiled().integer_graph))


@kind("ir-text")
def make(generator: random.Random, folder: Path) -> Attempt:
    """Read, verify, print, and one of: a pipeline, the simulator, a file."""
    text = _drawn(generator) if generator.random() < 0.3 else _mutated(generator)
    use = generator.randrange(4)
    pipeline = generator.choice(_PIPELINES)
    march = generator.choice(MARCHES)

    def attempt() -> object:
        graph = parse(text, parameters=_arrays())
        verify(graph)
        assert parse(str(graph), parameters=_arrays()) == graph
        if use == 0:
            return parse_pipeline(pipeline).run(graph, PassContext(get_spec(march)))
        if use == 1:
            return _simulated(graph)
        if use == 2:
            return onnx.export(
                graph, folder / "net.onnx", flavour=generator.choice(("qdq", "runnable", "integer")), verify=False
            )
        return graph.with_batch(2)

    return attempt


@functools.cache
def _arrays() -> dict[str, np.ndarray]:
    from hqc.ir.sidecar import sidecar_arrays

    return {**sidecar_arrays(compiled().graph), **sidecar_arrays(compiled().integer_graph)}


def _simulated(graph: Graph) -> object:
    program = bpu.compile(graph, engine="blas", threads=1)
    return program.run({value.name: np.zeros(value.shape or (), value.type.dtype.numpy) for value in graph.inputs})


def _mutated(generator: random.Random) -> str:
    text = generator.choice(_corpus())
    for _ in range(generator.choice((1, 1, 1, 1, 2, 4))):
        tokens = _TOKEN.findall(text)
        at = generator.randrange(len(tokens))
        match generator.choice((0, 1, 2, 3, 4, 4, 5, 5, 6, 7, 7, 7)):
            case 0:
                tokens[at] = odd_text(generator)
            case 1:
                del tokens[at]
            case 2:
                tokens.insert(at, generator.choice(tokens))
            case 3:
                tokens[at] = generator.choice(tokens)
            case 4 | 5:
                _replace_number(generator, tokens)
            case 6:
                lines = text.split("\n")
                generator.shuffle(lines)
                tokens = ["\n".join(lines)]
            case 7:
                words = [index for index, token in enumerate(tokens) if token in _op_names()]
                if words:
                    tokens[generator.choice(words)] = generator.choice(_op_names())
        text = "".join(tokens)
    return text


def _replace_number(generator: random.Random, tokens: list[str]) -> None:
    numbers = [index for index, token in enumerate(tokens) if token[:1].isdigit()]
    if numbers:
        tokens[generator.choice(numbers)] = generator.choice(
            (
                "0",
                "1",
                "2",
                "-1",
                "3",
                "7",
                "31",
                "64",
                "-2147483649",
                "4294967296",
                "99999999999999",
                "1e308",
                "0.5",
                "9" * 5000,
            )
        )


@functools.cache
def _op_names() -> tuple[str, ...]:
    return tuple(definition.name for definition in all_ops())


def _drawn(generator: random.Random) -> str:
    """A program of operations with operands, attributes and types drawn as they come."""
    lines, values = [], []
    for index in range(generator.randrange(1, 4)):
        sizes = [generator.choice(("0", "1", "2", "3", "4", "8", "?", "1000000000")) for _ in range(generator.randrange(5))]
        lines.append(f"input %i{index}: {generator.choice(('f32', 'f32', 'i8', 'i32', 'b1', 'i64'))}[{','.join(sizes)}]")
        values.append(f"%i{index}")
    if generator.random() < 0.6:
        shape = [generator.choice((1, 2, 3, 4)) for _ in range(generator.randrange(5))]
        lines.append(f"param @p: {generator.choice(('f32', 'i8', 'i32', 'i64'))}[{','.join(map(str, shape))}] = #random(1)")
        values.append("@p")
    for index in range(generator.randrange(1, 6)):
        definition = generator.choice(all_ops())
        operands = [
            generator.choice([*values, "none"])
            for _ in range(max(1, len(definition.operands) + generator.choice((0, 0, 0, -1, 1))))
        ]
        given = [
            f"{attr.name}={_attribute(generator, attr.kind, attr.choices)}"
            for attr in definition.attributes
            if generator.random() < 0.6
        ]
        suffix = f" {{{', '.join(given)}}}" if given else ""
        quant = generator.choice(("", "", f": i8 q(i8, {generator.choice(('0.1', '1e-40', '-1', '[0.1,0.2]', 'nan'))})"))
        device = generator.choice(("", " cpu", " bpu", " bpu.3", " cpu.-1"))
        lines.append(
            f"%n{index}{quant if generator.random() < 0.2 else ''} = {definition.name}({', '.join(operands)}){suffix}{device}"
        )
        values.append(f"%n{index}")
    lines += [f"output {generator.choice(values)}" for _ in range(generator.randrange(3))]
    stage = generator.choice(
        ("", "graph @g march=bayes {", "graph @g march=bayes stage=integer {", "graph @g march=x stage=bounded {")
    )
    return "\n".join([stage, *lines, "}"] if stage else lines)


def _attribute(generator: random.Random, kind: str, choices: tuple[str, ...]) -> str:
    if choices and generator.random() < 0.7:
        return generator.choice(choices)
    numbers = ("0", "1", "2", "3", "-1", "-2", "7", "100000000", "9999999999999999999")
    match kind:
        case "int" | "optional_int":
            return generator.choice(numbers)
        case "float" | "optional_float":
            return generator.choice(("0.5", "-1.0", "nan", "inf", "1e300", "0", "none"))
        case "bool":
            return generator.choice(("true", "false", "1"))
        case "ints" | "optional_ints":
            return f"[{','.join(generator.choice(numbers) for _ in range(generator.randrange(6)))}]"
        case "floats":
            return f"[{','.join(generator.choice(('1.0', 'nan', '2', '-3.5')) for _ in range(generator.randrange(4)))}]"
        case "dtype":
            return generator.choice(("f32", "i8", "i64", "f64", "c64"))
        case _:
            return generator.choice(('"x"', '""', '"\\u001b[31m"', '"a;b"', "none"))
