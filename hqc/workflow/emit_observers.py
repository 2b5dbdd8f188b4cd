"""The fake quants of an emitted model: what observes each value that the plan says is observed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hqc import arithmetic
from hqc.errors import QConfigError
from hqc.ir import Device, Node, QuantParams, Trait, Value, get_op
from hqc.march.spec import MarchSpec
from hqc.nn import DeQuantStub
from hqc.nn.qat.steep import SteepDeQuantStub, SteepOperand
from hqc.passes.own_lengths import grids_behind, meets_singular, own_length, source_of
from hqc.quantization.fake_quantize import FakeQuantizeBase, make_fake_quant
from hqc.workflow.activation_configs import ActivationConfigs

SCALES_META = "hqc_scales"
"""Key in `graph_module.meta` of the `QuantParams` that a quantized file brings for its values, by name."""


class Observers:
    """Makes fake quants, one per value; those of one scale group share their scale, which the widest of them decides.

    `scales`: of values that have one already; it is fixed.
    """

    def __init__(
        self,
        march: MarchSpec,
        configs: ActivationConfigs,
        device: torch.device,
        scales: Mapping[str, QuantParams] | None = None,
    ) -> None:
        self._scales = scales or {}
        self.march = march
        self._configs = configs
        self._device = device
        self._groups: dict[str, list[FakeQuantizeBase]] = {}
        self._made: dict[str, FakeQuantizeBase] = {}

    @staticmethod
    def is_observed(value: Value) -> bool:
        """True when `value` has statistics of its own."""
        return value.observation is not None and not value.off_grid

    def weight_entry(self, node: Node) -> Any:
        """The qconfig's entry for the weight of a conv-like node."""
        config = self._configs.table.of_weight(node)
        if config is None:
            raise QConfigError(f"{node.label} runs on the BPU and has no qconfig for its weight; give one in qconfig_dict")
        return self._configs.qconfigs[config.key].weight

    def make(self, value: Value, name: str) -> FakeQuantizeBase:
        """The fake quant of an observed value; errors call it `name`."""
        observation = value.observation
        assert observation is not None, value
        factory = self._configs.qconfigs[observation.qconfig].activation
        fake_quant = make_fake_quant(factory, self.march, name=name, dtype=observation.dtype, rounding=observation.rounding).to(
            self._device
        )
        given = self._scales.get(value.name) or self._scales.get(source_of(value).name)
        if given is not None and given.dtype is observation.dtype:
            scale = arithmetic.power_of_two_scale(given.scale) if self.march.power_of_two else given.scale
            fake_quant.fix_scale(float(scale))
        if observation.group:
            fake_quant.join(self._groups.setdefault(observation.group, []))
        self._made[value.name] = fake_quant
        node = value.producer
        if node is not None and node.op.has(Trait.SINGULAR) and node.device is Device.BPU:
            before = [self.behind(operand) for operand in node.operands if operand.producer is not None]
            fake_quant.follow_singular([each for each in before if each is not None])
        return fake_quant

    def dequant_stub(self, boundary: Node) -> DeQuantStub:
        """The module of a dequantize; in front of a standardization it bounds how steep that is."""
        source = self.behind(boundary.operands[0])
        if source is None:
            return DeQuantStub()
        if meets_singular(boundary.result):
            source.follow_steepness()
        reader = boundary.users[0] if len(boundary.users) == 1 else None
        if reader is None:
            return DeQuantStub()
        if reader.op.vectors is not None and reader.operands[0] is boundary.result:
            return SteepDeQuantStub(source, reader.op, reader.attributes)
        length = own_length(reader, boundary.result)
        if length is None:
            return DeQuantStub()
        return SteepDeQuantStub(source, get_op("lp_normalize"), {"axes": length.axes, "eps": length.least})

    def steep_operand(self, reader: Node, operand: Value) -> SteepOperand | None:
        """What bounds how steep `reader`, a standardization on the CPU, is in `operand`, which the CPU has made of values on grids."""
        if reader.device is not Device.CPU or not reader.inputs:
            return None
        op, attributes = reader.op, dict(reader.attributes)
        if op.vectors is None or reader.inputs[0] is not operand:
            length = own_length(reader, operand)
            if length is None:
                return None
            op, attributes = get_op("lp_normalize"), {"axes": length.axes, "eps": length.least}
        sources = [self.behind(value) for value in grids_behind(operand)]
        known = [source for source in dict.fromkeys(sources) if source is not None]
        return SteepOperand(known, op, attributes) if known else None

    def behind(self, value: Value) -> FakeQuantizeBase | None:
        """The fake quant that gives `value` its scale: its own, or that of what scale-keeping nodes made it from."""
        while value.name not in self._made:
            node = value.producer
            if node is None or not (
                node.op.has(Trait.BOUNDARY) or (node.device is Device.BPU and self.march.keeps_scale(node))
            ):
                return None
            value = node.operands[0]
        return self._made[value.name]
