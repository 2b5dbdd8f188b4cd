"""Arguments of the public calls: one of them, or several, replaced by something that does not belong there."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hqc
from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.material import Net, Stubbed, TwoInputs, compiled, image, odd_models, odd_tensor, odd_value
from hqc.quantization import (
    FakeQuantState,
    calibrate,
    convert_fx,
    fuse_fx,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.utils.onnx_helper import export_to_onnx

_COMPILE = (
    "hybrid_dict", "qconfig_dict", "hybrid", "optimize_graph", "min_macs", "min_nodes", "cat_policy", "conflict_policy", "edits",
    "concrete_args", "leaf_modules", "dump_dir", "progress",
)  # fmt: skip
_PREPARE = ("qconfig_dict", "prepare_custom_config_dict", "optimize_graph", "hybrid", "hybrid_dict", "example_inputs")


@kind("arguments")
def make(generator: random.Random, folder: Path) -> Attempt:
    """One call of one entry point."""
    call = generator.choice(
        (_compile, _explain, _lower, _prepare, _after_prepare, _simulate, _export, _calibration, _march, _load)
    )
    return call(generator, folder)


def _some(generator: random.Random, folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    chosen = generator.sample(names, min(len(names), generator.choice((0, 1, 1, 2))))
    return {name: folder / "dumps" if name == "dump_dir" else odd_value(generator) for name in chosen}


def _inputs(generator: random.Random) -> Any:
    draw = generator.random()
    if draw < 0.5:
        return image()
    return odd_tensor(generator) if draw < 0.75 else odd_value(generator)


def _compile(generator: random.Random, folder: Path) -> Attempt:
    model = odd_models(generator) if generator.random() < 0.4 else generator.choice((Net, TwoInputs))()
    inputs, data = _inputs(generator), _inputs(generator)
    march = "bayes" if generator.random() < 0.8 else odd_value(generator)
    options = _some(generator, folder, _COMPILE)
    return lambda: hqc.compile(model, inputs, march=march, calibration_data=data, **options).simulate(inputs)


def _explain(generator: random.Random, folder: Path) -> Attempt:
    model, inputs = odd_models(generator), _inputs(generator)
    options = _some(generator, folder, ("hybrid_dict", "qconfig_dict", "hybrid", "form", "edits"))
    return lambda: str(hqc.explain(model, inputs, march="bayes", **options))


def _lower(generator: random.Random, folder: Path) -> Attempt:
    model, inputs = odd_models(generator), _inputs(generator)
    return lambda: hqc.lower(model, inputs)


def _prepare(generator: random.Random, folder: Path) -> Attempt:
    prepare = generator.choice((prepare_qat_fx, prepare_calibration_fx, fuse_fx))
    model = odd_models(generator) if generator.random() < 0.4 else Stubbed()
    options = _some(generator, folder, _PREPARE if prepare is not fuse_fx else ())
    if prepare is not fuse_fx:
        options.setdefault("qconfig_dict", {"": get_default_qat_qconfig()})
        options.setdefault("hybrid", True)
    hqc.set_march("bayes")
    return lambda: prepare(model, **options)


def _prepared() -> Any:
    hqc.set_march("bayes")
    prepared = prepare_qat_fx(Stubbed(), {"": get_default_qat_qconfig()}, hybrid=True)
    prepared(image())
    return prepared.eval()


def _after_prepare(generator: random.Random, folder: Path) -> Attempt:
    prepared = _prepared() if generator.random() < 0.6 else odd_models(generator)
    value = odd_value(generator)
    state = generator.choice((FakeQuantState.QAT, value))
    data = _inputs(generator)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: convert_fx(prepared),
        lambda: convert_fx(prepared, value),
        lambda: convert_fx(prepared)(data),
        lambda: set_fake_quantize(prepared, state),
        lambda: calibrate(prepared, data),
    )
    return generator.choice(calls)


def _simulate(generator: random.Random, folder: Path) -> Attempt:
    inputs = [_inputs(generator) for _ in range(generator.choice((0, 1, 1, 1, 2)))]
    call = generator.choice((compiled().simulate, compiled().fake_quant, compiled().profile))
    return lambda: call(*inputs)


def _path(generator: random.Random, folder: Path) -> Any:
    odd: tuple[Any, ...] = (
        "", " ", "a\0b", "\ud800", "x" * 300, "x" * 5000, str(folder), f"{folder}/no/such/net.onnx", "/proc/x.onnx",
        f"{folder}/\x1b[31m.onnx",
        f"{folder}/net", f"{folder}/.onnx", f"{folder}/a;b.onnx", f"{folder}/a\nb.onnx", f"{folder}/net.yaml", None, 3, b"net.onnx", [],
        Path("/"), Path("."), f"{folder}/net.onnx",
    )  # fmt: skip
    return generator.choice(odd)


def _export(generator: random.Random, folder: Path) -> Attempt:
    path, value = _path(generator, folder), odd_value(generator)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: compiled().export(path, verify=False),
        lambda: compiled().export(folder / "net.onnx", flavour=value, verify=False),
        lambda: compiled().report(path),
        lambda: compiled().save(path),
        lambda: hqc.ir.save(compiled().graph, path),
        lambda: export_to_onnx(Net() if value is None else value, image(), path),
        lambda: export_to_onnx(_prepared(), value, folder / "net.onnx"),
    )
    return generator.choice(calls)


def _calibration(generator: random.Random, folder: Path) -> Attempt:
    batches: Any = [_inputs(generator) for _ in range(generator.randrange(4))]
    batches = generator.choice((lambda: batches, lambda: iter(batches), lambda: {"x": batches}, lambda: lambda: batches))()
    model = generator.choice((Net, TwoInputs))()
    inputs = image() if isinstance(model, Net) else (image(), image())
    return lambda: hqc.compile(model, inputs, march="bayes", calibration_data=batches)


def _march(generator: random.Random, folder: Path) -> Attempt:
    value = odd_value(generator)
    return generator.choice((lambda: hqc.set_march(value), lambda: hqc.explain(Net(), image(), march=value)))


def _load(generator: random.Random, folder: Path) -> Attempt:
    path = _path(generator, folder)
    return generator.choice((lambda: hqc.load(path), lambda: hqc.ir.load(path)))
