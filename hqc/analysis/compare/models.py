"""`compare`: float, fake-quantized, simulated and exported models of one network, operation by operation, on data."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from hqc.analysis.compare.comparison import Comparison, OperationComparison, OutputComparison
from hqc.analysis.compare.distances import DistanceSum
from hqc.analysis.compare.float_run import FloatRun
from hqc.analysis.compare.operations import Operation, operations_of
from hqc.analysis.compare.own_error import OwnErrorSum
from hqc.analysis.compare.views import ExportedView, FakeQuantView, FloatView, OtherFakeQuantView, SimulatorView, View
from hqc.checked import checked_but
from hqc.errors import InputError
from hqc.ir import DType
from hqc.workflow.arguments import tensors_of
from hqc.workflow.calibration import Progress, batches_of
from hqc.workflow.compile import Compiled
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.runner import Runner

Array = npt.NDArray[Any]
TRAINED = 60.0
"""dB: a float model further than this from the quantized one without its quantization is another model (rounding gives 100)."""
FORMS = {"ptq": "calibrated", "calibration": "calibrated", "qat": "qat"}


@checked_but("model")
def compare(
    model: Compiled | ObservedGraphModule,
    data: Iterable[Any] | None = None,
    *,
    calibrated: ObservedGraphModule | None = None,
    exported: str | os.PathLike[str] | None = None,
    own_errors: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """Where the error of `model` comes from.

    `model`: what `hqc.compile` returned, or a prepared model with scales; in the result its fake-quantized form is the view `calibrated`
    after post-training quantization, `qat` after prepare_qat_fx. It is compared with `float`, the user's model, and with `simulator`;
    with `calibrated`, a calibrated model of the same network, and `exported`, a file that hqc exported, where they are given.
    `data`: batches, as for calibration; default: the calibration samples that `model` kept. `own_errors=False` leaves out the costly
    part: what each operation adds by itself, for which the rest of the network runs up to four times per operation and batch.
    `progress`: gets `(batches done, total)`.

    Nothing of the models is changed. `InputError`, `CalibrationError` for what cannot be compared.
    """
    prepared, runner = _subject(model)
    batches = _data(model, prepared, data)
    deployment = runner.deployment
    if deployment is None:
        runner.program(batches[0])
        deployment = runner.deployment
    assert deployment is not None
    operations = operations_of(prepared, deployment.scaled)
    main = FORMS[prepared.preparation.options.form]
    fake_quant = FakeQuantView(prepared, operations)
    views: dict[str, View] = {"float": FloatView(prepared, operations)}
    if calibrated is not None:
        if main == "calibrated":
            raise InputError("the model is a calibrated one itself; give the calibrated model beside one from prepare_qat_fx")
        views["calibrated"] = OtherFakeQuantView(calibrated, operations, Runner(calibrated))
    views |= {main: fake_quant, "simulator": SimulatorView(runner)}
    if exported is not None:
        views["exported"] = ExportedView(exported)
    sums = _Sums(operations, deployment.scaled.output_names, tuple(views))
    training = prepared.training
    prepared.eval()
    try:
        for done, arguments in enumerate(batches, start=1):
            graph = runner.program(arguments)[0].scaled
            found = {name: view.values(arguments, graph) for name, view in views.items()}
            sums.add(found)
            base = FloatRun(prepared, arguments)
            sums.add_base(base, found["float"][1])
            if own_errors:
                assert fake_quant.last is not None
                for operation, own in zip(operations, sums.own, strict=True):
                    own.add(base, fake_quant.last.values[operation.value])
            if progress is not None:
                progress(done, len(batches))
    finally:
        prepared.train(training)
    samples = sum(int(tensors_of(arguments)[0].shape[0]) if tensors_of(arguments)[0].dim() else 1 for arguments in batches)
    return sums.comparison(prepared.preparation.options.march, samples, main)


def _subject(model: Any) -> tuple[ObservedGraphModule, Runner]:
    if isinstance(model, Compiled):
        return model.prepared, model.runner
    if isinstance(model, ObservedGraphModule):
        return model, Runner(model)
    raise InputError(
        f"compare takes what hqc.compile returns, or a model from prepare_qat_fx or prepare_calibration_fx, got {type(model).__name__}"
    )


def _data(model: Any, prepared: ObservedGraphModule, data: Iterable[Any] | None) -> list[tuple[Any, ...]]:
    if data is None:
        kept = model.samples if isinstance(model, Compiled) else []
        if not kept:
            raise InputError("compare needs data: batches of inputs, as for calibration")
        data = kept
    batches = list(batches_of(prepared, data))
    if not batches:
        raise InputError("compare was given no data; give at least one batch")
    return batches


class _Sums:
    """What is added up over the batches."""

    def __init__(self, operations: Sequence[Operation], outputs: Sequence[str], views: tuple[str, ...]) -> None:
        self.operations, self.outputs, self.views = operations, outputs, views
        self.own = [OwnErrorSum(operation) for operation in operations]
        self.base = DistanceSum()
        self._values: dict[str, dict[tuple[str, str], DistanceSum]] = {each.ir_value: {} for each in operations}
        self._outputs: dict[str, dict[tuple[str, str], DistanceSum]] = {name: {} for name in outputs}
        self._steps = {operation.ir_value: _step(operation) for operation in operations}

    def add(self, found: Mapping[str, tuple[dict[str, Array], list[Array]]]) -> None:
        for first, second in itertools.combinations(self.views, 2):
            (values, outputs), (others, other_outputs) = found[first], found[second]
            for name, sums in self._values.items():
                if name in values and name in others and values[name].shape == others[name].shape:
                    sums.setdefault((first, second), DistanceSum(self._steps[name])).add(values[name], others[name])
            for name, a, b in zip(self.outputs, outputs, other_outputs, strict=True):
                if a.shape == b.shape:
                    self._outputs[name].setdefault((first, second), DistanceSum()).add(a, b)

    def add_base(self, base: FloatRun, outputs: list[Array]) -> None:
        for a, b in zip(outputs, pytree.tree_leaves(base.outputs), strict=False):
            if isinstance(b, torch.Tensor) and a.shape == tuple(b.shape) and b.is_floating_point():
                self.base.add(a, b.detach().cpu().numpy())

    def comparison(self, march: str, samples: int, main: str) -> Comparison:
        errors = [own.error for own in self.own]
        costly = sorted((error.cost, index) for index, error in enumerate(errors) if error is not None)
        ranks = {index: rank for rank, (_, index) in enumerate(costly, start=1)}
        rows = []
        for index, operation in enumerate(self.operations):
            quant = operation.quant
            scale = None if quant is None or quant.per_channel else float(quant.scale)
            rows.append(
                OperationComparison(
                    operation.name,
                    "" if quant is None else quant.dtype.numpy.name,
                    scale,
                    {pair: each.distance for pair, each in self._values[operation.ir_value].items()},
                    errors[index],
                    ranks.get(index),
                )
            )
        outputs = [
            OutputComparison(name, {pair: each.distance for pair, each in sums.items()}) for name, sums in self._outputs.items()
        ]
        return Comparison(march, self.views, samples, tuple(rows), tuple(outputs), self.warnings(main))

    def warnings(self, main: str) -> tuple[str, ...]:
        trained = self.base.distance.sqnr
        if trained > TRAINED:
            return ()
        return (
            f"the {main} model was trained: without its quantization it is {trained:.1f} dB from the float model, so distances from float "
            f"compare two trainings; errors of quantization are those between {main} and simulator, and the own errors",
        )


def _step(operation: Operation) -> float | None:
    quant = operation.quant
    return None if quant is None or quant.per_channel or quant.dtype is DType.INT32 else float(quant.scale)
