"""The invariants of DESIGN section 1 on one program. Each check raises AssertionError with the program's text in it."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from draft import Program
from torch import nn
from torch.utils import _pytree as pytree

import hqc
from hqc.analysis.layers import layer_errors
from hqc.errors import HqcError
from hqc.ir import QuantParams
from hqc.march import set_march
from hqc.quantization import (
    FakeQuantState,
    convert_fx,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.workflow.options import CompileOptions
from hqc.workflow.pipelines import deploy_pipeline
from hqc.workflow.planning import plan_model

MARCHES = ("bernoulli", "bernoulli2", "bayes", "bayes-e")


def tensors(outputs: Any) -> list[np.ndarray]:
    """The tensors of any output structure, in order, as float64 arrays; numbers and None are left out."""
    found = []
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf.detach().numpy().astype(np.float64))
        elif isinstance(leaf, np.ndarray):
            found.append(leaf.astype(np.float64))
    return found


def evaluated(model: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> list[np.ndarray]:
    with torch.no_grad():
        return tensors(model(*inputs))


@contextmanager
def told(program: Program, what: str) -> Iterator[None]:
    """Whatever goes wrong inside names the program, the check and, for raw errors, that they are raw."""
    try:
        yield
    except HqcError as error:
        raise AssertionError(f"{what}: refused: {error}\n{program}") from error
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}\n{program}") from error
    except Exception as error:
        raise AssertionError(f"{what}: raw {type(error).__name__}: {error}\n{program}") from error


def prepared_for_training(program: Program, march: str) -> tuple[nn.Module, nn.Module]:
    """The float model (with stubs) and the model emitted for quantized training."""
    set_march(march)
    model = program.build()
    prepared = prepare_qat_fx(
        model, {"": get_default_qat_qconfig()}, hybrid=True, optimize_graph=True, example_inputs=program.inputs()
    )
    return model, prepared.eval()


def check_emitted_model(program: Program, march: str) -> None:
    """I4: with fake quants off the emitted model is the float model, at any batch size, and trains what the float model trains."""
    with told(program, f"I4 on {march}"):
        model, prepared = prepared_for_training(program, march)
        _off(prepared)
        for batch in (1, 3):
            inputs = program.inputs(batch, seed=batch)
            for k, (got, want) in enumerate(zip(evaluated(prepared, inputs), evaluated(model, inputs), strict=True)):
                assert got.shape == want.shape, f"output {k}: shape {got.shape}, want {want.shape}"
                reach = max(np.abs(want).max(initial=0.0), 1e-6)
                error = np.abs(got - want).max(initial=0.0) / reach
                assert error <= 1e-5, f"batch {batch}, output {k}: off by {error:.2g} of the range"
        _on(prepared)
        missing = _trained(model, program) - _trained(prepared, program)
        folded = {name for name in missing if "norm" in name}  # a batch norm that is folded trains as its layer
        assert not missing - folded, f"no gradient for {sorted(missing - folded)}"


def _off(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "disable_fake_quant"):
            module.disable_fake_quant()
            module.disable_observer()


def _on(model: nn.Module) -> None:
    set_fake_quantize(model, FakeQuantState.QAT)


def _trained(model: nn.Module, program: Program) -> set[str]:
    """Names of parameters that get a gradient from the sum of the outputs' squares."""
    model = copy.deepcopy(model).train()
    outputs = pytree.tree_leaves(model(*program.inputs(4, seed=9)))
    loss = sum((leaf.float() ** 2).sum() for leaf in outputs if isinstance(leaf, torch.Tensor) and leaf.requires_grad)
    if isinstance(loss, int):
        return set()
    loss.backward()
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def check_entry_points(program: Program, march: str) -> None:
    """I1 and I3: what explain accepts every entry point accepts, with the same device for every operation."""
    model = program.build()
    with told(program, f"explain on {march}"):
        explained = devices(hqc.explain(model, program.inputs(), march=march).placement)
    with told(program, f"I3 on {march}"):
        calibration = [program.inputs(2, seed=seed) for seed in range(3)]
        compiled = hqc.compile(model, program.inputs(), march=march, calibration_data=calibration)
        assert devices(compiled.placement) == explained, "compile places operations elsewhere than explain"
        for batch in (1, 3):
            inputs = program.inputs(batch, seed=batch)
            for got, want in zip(tensors(compiled.simulate(*inputs)), evaluated(model, inputs), strict=True):
                assert got.shape == want.shape, f"batch {batch}: shape {got.shape}, want {want.shape}"


def devices(report: Any) -> dict[str, str]:
    """Device of every traced operation; those of a fused group are named one by one."""
    rows = getattr(report, "placement", report).rows
    return {name: row.device for row in rows for name in row.origin or (row.name,)}


def check_accepted_is_lowerable(program: Program, march: str) -> None:
    """I2, on the IR alone: what the plan puts on the BPU goes through every later pass, whatever scales calibration finds."""
    with told(program, f"I2 on {march}"):
        options = CompileOptions.of(march, optimize_graph=True)
        planned = plan_model(program.build(), options, program.inputs())
        graph, rng, scales = planned.graph.clone(), random.Random(program.seed), {}
        for node in graph.nodes:
            for value in node.results:
                seen = value.observation
                if seen is not None and seen.policy != "operand":
                    scale = scales.setdefault(seen.group or value.name, 2.0 ** rng.randint(-7, -2))
                    value.quant = QuantParams(scale, seen.dtype, rounding=seen.rounding)
                    value.observation = None
        context = options.context(plan=planned.plan)
        deploy_pipeline(options, integer=True).run(graph, context)
        assert graph.stage == "integer"


def check_training_flow(program: Program, march: str) -> None:
    """I3 for quantized training: prepare, a training step, convert; the converted model follows the fake-quant one."""
    with told(program, f"QAT on {march}"):
        _, prepared = prepared_for_training(program, march)
        prepared.train()
        outputs = pytree.tree_leaves(prepared(*program.inputs(4, seed=1)))
        loss = sum((leaf**2).mean() for leaf in outputs if isinstance(leaf, torch.Tensor) and leaf.requires_grad)
        if not isinstance(loss, int):
            loss.backward()
        prepared.eval()
        set_fake_quantize(prepared, FakeQuantState.VALIDATION)
        converted = convert_fx(prepared)
        got, want = evaluated(converted, program.inputs(2)), evaluated(prepared, program.inputs(2))
        assert [x.shape for x in got] == [x.shape for x in want]


def check_calibration_order(program: Program, march: str) -> None:
    """I6: no scale depends on the order of the calibration data."""
    with told(program, f"I6 on {march}"):
        batches = [tuple(x * factor for x in program.inputs(2, seed=k)) for k, factor in enumerate((0.2, 1.0, 0.7, 0.05))]
        shuffled = batches[:]
        random.Random(program.seed).shuffle(shuffled)
        scales = []
        for data in (batches, shuffled):
            compiled = hqc.compile(program.build(), program.inputs(), march=march, calibration_data=data)
            graph = compiled.graph
            scales.append(
                {value.name: value.quant for node in graph.nodes for value in node.results if value.quant is not None}
            )
        assert scales[0] == scales[1], "scales depend on the order of the calibration batches"


def check_files(program: Program, march: str) -> None:
    """I5 between files and models: each flavour is written and onnxruntime computes what its reference computes (`verify`)."""
    with told(program, f"files on {march}"), tempfile.TemporaryDirectory() as folder:
        calibration = [program.inputs(2, seed=seed) for seed in range(3)]
        compiled = hqc.compile(program.build(), program.inputs(), march=march, calibration_data=calibration)
        for flavour in ("horizon", "qdq", "integer"):
            compiled.export(f"{folder}/{flavour}.onnx", flavour=flavour)


def check_single_operations(program: Program, march: str) -> None:
    """I5 between simulator and fake quant: each operation fed the same integers differs by at most one step."""
    with told(program, f"I5 on {march}"):
        calibration = [program.inputs(2, seed=seed) for seed in range(3)]
        compiled = hqc.compile(program.build(), program.inputs(), march=march, calibration_data=calibration)
        names = [value.name for value in compiled.graph.inputs]
        arrays = {name: tensor.numpy() for name, tensor in zip(names, program.inputs(seed=1), strict=True)}
        off = [error for error in layer_errors(compiled.deployment, arrays) if error.max_lsb > 1]
        exempt = {remark.node for remark in compiled.remarks if "1/8 pixel" in remark.message}  # ARITHMETIC section 8
        assert not [error for error in off if error.name not in exempt], ", ".join(map(str, off))


CHECKS: dict[str, tuple[Callable[[Program, str], None], bool]] = {
    "lowerable": (check_accepted_is_lowerable, False),
    "entry-points": (check_entry_points, False),
    "emitted-model": (check_emitted_model, True),
    "training-flow": (check_training_flow, True),
    "files": (check_files, False),
    "single-operations": (check_single_operations, False),
    "calibration-order": (check_calibration_order, False),
}
"""Check, and whether it takes programs with stubs."""
