"""Replay of a bounded IR graph on the FX graph it was lowered from: QAT modules, fake quants and dequant stubs.

Nothing is decided here. Every fused module, fake quant and stub stands for a node (or a scale-making value) of the IR; names
and positions follow docs/architecture.md and HYBRID section 2 of the design.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import fx, nn

from hqc.errors import LoweringError, QConfigError
from hqc.frontend.fx.attributes import query_nodes
from hqc.ir import Device, Graph, Node, Trait, Value
from hqc.march.spec import MarchSpec
from hqc.nn import DeQuantStub
from hqc.nn.qat.kept_batch_norm import BATCH_NORMS
from hqc.nn.qat.layer import QATLayer
from hqc.nn.qat.mapping import qat_module, qat_stub
from hqc.quantization.fake_quantize import BoundaryFakeQuantize, FakeQuantizeBase, fake_quant_of, make_fake_quant
from hqc.quantization.off_grid import GainPool, OffGridFakeQuantize
from hqc.quantization.qconfig import QConfig

Array = npt.NDArray[Any]
QConfigOf = Callable[[fx.Node], "QConfig | None"]


@dataclass
class Replay:
    """One replay. `gm`: traced GraphModule whose graph is rewritten in place; `root`: the module tree it calls (also changed).

    `qconfig_of(fx node)`: the qconfig in force there, for weights. `qconfigs`: by the key that observations carry, for activations.
    `wrap_boundaries`: boundary fake quants print inside a wrapper (QAT). `keep_batch_norm`: layers keep the batch norm that the IR
    folded, where they can. Members of a scale group get one fake quant.
    """

    gm: fx.GraphModule
    root: nn.Module
    ir: Graph
    march: MarchSpec
    qconfig_of: QConfigOf
    qconfigs: Mapping[str, QConfig]
    wrap_boundaries: bool
    keep_batch_norm: bool = False

    def __post_init__(self) -> None:
        self.fx_nodes = {node.name: node for node in self.gm.graph.nodes}
        self.device = next((tensor.device for tensor in (*self.root.parameters(), *self.root.buffers())), torch.device("cpu"))
        self.float_modules = dict(self.root.named_modules(remove_duplicate=False))  # as they were, for every call site
        self.built: dict[nn.Module, QATLayer] = {}
        self.queries = query_nodes(self.gm.graph)  # shapes and sizes: they pass no tensor on
        self.node_of = dict(self.fx_nodes)  # IR value name -> FX node that makes it now
        self.ir_of = {name: node for node in self.ir.nodes if not _is_marker(node) for name in node.origin}
        self.shared_fake_quants: dict[str, FakeQuantizeBase] = {}
        self.called: set[str] = set()
        self.appended: list[tuple[int, int, str, nn.Module]] = []
        self.position = {node: index for index, node in enumerate(self.gm.graph.nodes)}

    def run(self) -> None:
        for node in list(self.ir.nodes):
            if node.op.has(Trait.CONV_LIKE) and node.device is Device.BPU and self._conv_module_node(node) is not None:
                self._replace_conv(node)
            elif node.op.has(Trait.BOUNDARY) and node.attributes.get("stub"):
                self._replace_stub(node)
            elif node.device is Device.BPU:
                self._observe_function(node)
        for node in list(self.ir.nodes):
            if _is_marker(node):
                self._insert_boundary(node)
        # The tree lists what was inserted after the user's modules: per op the fake quant before the dequant.
        for _, _, name, module in sorted(self.appended, key=lambda item: item[:3]):
            self.root.add_module(name, module)
        self._put_back_on_grid()
        self._strip_cpu_qconfigs()
        for fx_node in reversed(list(self.gm.graph.nodes)):  # an identity inside a fused group has no reader left
            if not fx_node.users and self._dropped(fx_node):
                self.gm.graph.erase_node(fx_node)

    # --- fake quants ---------------------------------------------------------------------------------------------

    def _qconfig(self, fx_node: fx.Node, node: Node) -> QConfig:
        qconfig = self.qconfig_of(fx_node)
        if qconfig is None:
            device = "runs on the BPU" if node.device is Device.BPU else "feeds the BPU"
            raise QConfigError(
                f"{fx_node.name} [{node.loc}] {device} and has no qconfig; give one in qconfig_dict (a global one under the "
                'key "") or place the operation on the CPU with hybrid_dict'
            )
        return qconfig

    def _fake_quant(self, value: Value, fx_node: fx.Node) -> FakeQuantizeBase:
        observation = value.observation
        assert observation is not None, value
        group = observation.group
        if group in self.shared_fake_quants:
            return self.shared_fake_quants[group]
        factory = self.qconfigs[observation.qconfig].activation
        fake_quant = make_fake_quant(factory, self.march, name=fx_node.name, dtype=observation.dtype).to(self.device)
        if group:
            self.shared_fake_quants[group] = fake_quant
        return fake_quant

    def _observe_function(self, node: Node) -> None:
        for result in node.results:
            if result.observation is None or result.off_grid:
                continue
            if result.name not in self.node_of:
                raise LoweringError(
                    f"{result.name} [{node.loc}] is a step inside one operation and cannot carry a fake quant of its own; let "
                    "the operation run on the CPU with hybrid_dict"
                )
            target = self.node_of[result.name]
            name = f"{target.name}_activation_post_process"
            self._append(target, 0, name, self._fake_quant(result, target))
            self.node_of[result.name] = self._insert_after(target, name, self._real_users(target))

    def _replace_stub(self, node: Node) -> None:
        if not node.origin:
            self._insert_input_stub(node)
            return
        fx_node = self.fx_nodes[node.origin[-1]]
        if node.op.name == "quantize":
            self._set_module(fx_node, lambda module: qat_stub(module, self._fake_quant(node.result, fx_node)))
        else:
            self._set_module(fx_node, lambda module: DeQuantStub())

    def _insert_input_stub(self, node: Node) -> None:
        """A QuantStub that the passes put between a graph input and the BPU nodes that read it."""
        (source,) = node.operands
        placeholder = self.node_of[source.name]
        users = [user for user in self._real_users(placeholder) if self._leads_to_bpu(user)]
        fake_quant = self._fake_quant(node.result, placeholder)
        self._append(placeholder, 0, node.name, qat_stub(nn.Identity(), fake_quant))
        self.node_of[node.result.name] = self._insert_after(placeholder, node.name, users)

    # --- conv-like modules ----------------------------------------------------------------------------------------

    def _conv_module_node(self, node: Node) -> fx.Node | None:
        """The call of the module that `node` computes: a layer with a twin, or a batch norm that became a convolution."""
        for index, name in enumerate(node.origin):
            fx_node: fx.Node | None = self.fx_nodes.get(name)
            if fx_node is not None and fx_node.op == "call_module":
                module = self.float_modules[str(fx_node.target)]
                if qat_module.accepts(module) or (index == 0 and isinstance(module, BATCH_NORMS)):
                    return fx_node
        return None

    def _replace_conv(self, node: Node) -> None:
        conv = self._conv_module_node(node)
        assert conv is not None
        last = self.fx_nodes[node.origin[-1]]
        qconfig = self._qconfig(conv, node)
        residual = node.operand("residual")
        fake_quant = None if node.result.observation is None else self._fake_quant(node.result, last)
        called = self.float_modules[str(conv.target)]
        float_module = called
        if isinstance(called, BATCH_NORMS):
            float_module = qat_module.unit_convolution(called, kept=self.keep_batch_norm)
        batch_norm = self._batch_norm_to_keep(node, float_module)
        weight, bias = _own_parameters(float_module) if batch_norm is not None else _folded_parameters(node)
        module = qat_module.build(
            float_module,
            weight=weight,
            bias=bias,
            activation=node.attributes["activation"],
            residual=residual is not None,
            weight_fake_quant=qconfig.weight,
            activation_post_process=fake_quant,
            march=self.march,
            batch_norm=batch_norm,
        )
        module.share_parameters(self.built.setdefault(called, module))
        if residual is None:
            self._fuse_forward(node, conv, module)
        else:
            self._fuse_at_add(node, conv, module)

    def _batch_norm_to_keep(self, node: Node, float_module: nn.Module) -> nn.BatchNorm2d | None:
        """The batch norm that was folded into `node`, when it is to be kept and the layer has a class that does."""
        for name in node.origin if self.keep_batch_norm else ():
            fx_node = self.fx_nodes.get(name)
            if fx_node is not None and fx_node.op == "call_module":
                member = self.float_modules[str(fx_node.target)]
                if qat_module.keeps_batch_norm(float_module, member):
                    kept: nn.BatchNorm2d = member
                    return kept
        return None

    def _fuse_forward(self, node: Node, conv: fx.Node, module: nn.Module) -> None:
        """conv (+ bn) (+ activation): the conv's node stays, the others go."""
        self._place_module(conv, str(conv.target), module)
        absorbed = [self.fx_nodes[name] for name in node.origin if name in self.fx_nodes and self.fx_nodes[name] is not conv]
        if absorbed:
            absorbed[-1].replace_all_uses_with(conv)
        self._erase(absorbed)
        self.node_of[node.result.name] = conv

    def _fuse_at_add(self, node: Node, conv: fx.Node, module: nn.Module) -> None:
        """conv (+ bn) + add (+ activation): the add's node stays and calls the fused module; conv, bn and activation go."""
        members = [self.fx_nodes[name] for name in dict.fromkeys(node.origin) if name in self.fx_nodes]
        add = next(m for m in members if m is not conv and len(self._tensor_args(m)) == 2)
        before = [m for m in members if self.position[m] < self.position[add]]
        after = [m for m in members if self.position[m] > self.position[add]]
        x = conv.args[0]
        conv_output = before[-1]
        if add.op == "call_method" and _method_owner(add) is not None:
            owner = _method_owner(add)
            assert owner is not None
            operands = list(add.args[1:])
            conv_position = next(i for i, arg in enumerate(operands) if self._behind(arg, conv_output))
            module.conv_position = conv_position  # type: ignore[assignment]
            operands[conv_position] = x
            add.args = (add.args[0], *operands)
            add.target = "add"
            self._place_owner(owner, module)
            self._retire(str(conv.target), conv)
        else:
            operands = self._tensor_args(add)
            residual = next(arg for arg in operands if not self._behind(arg, conv_output))
            target = str(conv.target)
            add.op, add.target, add.args, add.kwargs = "call_module", target, (x, residual), {}
            self._place_module(add, target, module)
        if after:
            after[-1].replace_all_uses_with(add)
        self._erase([*after, *before])
        self.node_of[node.result.name] = add

    @staticmethod
    def _tensor_args(fx_node: fx.Node) -> list[fx.Node]:
        return [arg for arg in fx_node.args if isinstance(arg, fx.Node) and arg.op != "get_attr"]

    def _behind(self, arg: object, conv_output: fx.Node) -> bool:
        """True when `arg` is `conv_output`, looking through operations that the IR dropped (identity, dropout)."""
        while isinstance(arg, fx.Node) and arg is not conv_output and self._dropped(arg):
            arg = arg.all_input_nodes[0]
        return arg is conv_output

    def _erase(self, nodes: list[fx.Node]) -> None:
        """Erase absorbed nodes and what the IR dropped between them, last first."""
        for fx_node in sorted(nodes, key=self.position.__getitem__, reverse=True):
            for user in list(fx_node.users):
                if self._dropped(user):
                    self._erase([user])
            if fx_node.graph is self.gm.graph and not fx_node.users and not fx_node._erased:
                self.gm.graph.erase_node(fx_node)
                self.fx_nodes.pop(fx_node.name, None)
                if fx_node.op == "call_module":
                    self._retire(str(fx_node.target), fx_node)

    def _retire(self, target: str, fx_node: fx.Node) -> None:
        """A module that no node calls any more becomes an Identity, so that the tree keeps its names."""
        still_called = any(n.op == "call_module" and n.target == target and n is not fx_node for n in self.gm.graph.nodes)
        if not still_called and target not in self.called:
            self._assign(target, nn.Identity())

    def _place_owner(self, owner: fx.Node, module: nn.Module) -> None:
        """Put a fused module in a FloatFunctional's place; a second call site of the same one gets a path of its own."""
        target = str(owner.target)
        if target in self.called:
            target = self._fresh(target)
            owner.target = target
        self.called.add(target)
        self._assign(target, module)

    def _place_module(self, fx_node: fx.Node, target: str, module: nn.Module) -> None:
        """Make `fx_node` call `module` at `target`; a second call site of a shared module gets a path of its own."""
        if target in self.called:
            target = self._fresh(target)
        self.called.add(target)
        fx_node.target = target
        self._assign(target, module)

    def _set_module(self, fx_node: fx.Node, make: Callable[[nn.Module], nn.Module]) -> None:
        module = make(self.float_modules[str(fx_node.target)])
        self._place_module(fx_node, str(fx_node.target), module)

    def _assign(self, target: str, module: nn.Module) -> None:
        parent, _, name = target.rpartition(".")
        owner = self.root.get_submodule(parent) if parent else self.root
        module.train(owner.training)
        owner.add_module(name, module)

    def _fresh(self, target: str) -> str:
        index = 1
        while True:
            candidate = f"{target}_{index}"
            try:
                self.root.get_submodule(candidate)
            except AttributeError:
                return candidate
            index += 1

    # --- boundaries -----------------------------------------------------------------------------------------------

    def _insert_boundary(self, node: Node) -> None:
        (source,) = node.operands
        producer = self.node_of[source.name]
        if node.op.name == "quantize":
            users = [user for user in self._real_users(producer) if self._leads_to_bpu(user)]
            fake_quant = self._fake_quant(node.result, producer)
            placed = BoundaryFakeQuantize(fake_quant) if self.wrap_boundaries else fake_quant
            self._append(producer, 0, node.name, placed)
            self._insert_after(producer, node.name, users)
            return
        (consumer,) = {id(user): user for user in node.users}.values()
        members = [self.fx_nodes[name] for name in consumer.origin if name in self.fx_nodes]
        stub = node.name.rpartition("_")[0]
        self._append(members[0], 1, stub, DeQuantStub())
        call: fx.Node | None = None
        for member in members:
            for arg in list(member.all_input_nodes):
                if self._real_source(arg) is not producer:
                    continue
                if call is None:
                    with self.gm.graph.inserting_before(member):
                        call = self.gm.graph.create_node("call_module", stub, (arg,), name=node.name)
                    self.node_of[node.name] = call
                member.replace_input_with(arg, call)

    # --- results off their operand's grid ---------------------------------------------------------------------------

    def _put_back_on_grid(self) -> None:
        """Behind BPU operations that keep their operand's scale and leave its grid: a module that rounds as the kernel does."""
        sources: dict[fx.Node, FakeQuantizeBase] = {}
        for fx_node in list(self.gm.graph.nodes):  # a rounding that was put in stands for its operation
            own, inputs = self._own_fake_quant(fx_node), fx_node.all_input_nodes
            source = own or (sources.get(inputs[0]) if inputs else None)
            if source is None:
                continue
            node = self.ir_of.get(fx_node.name)
            if own is not None or self._dropped(fx_node):
                sources[fx_node] = source
            elif node is not None and node.device is Device.BPU:
                if self.march.keeps_scale(node):
                    sources[fx_node] = source
                rounding = self._insert_rounding(fx_node, inputs[0], node, source) if source.switchable else None
                if rounding is not None:
                    sources[rounding] = source

    def _own_fake_quant(self, fx_node: fx.Node) -> FakeQuantizeBase | None:
        owner = fx_node if fx_node.op == "call_module" else _method_owner(fx_node)
        if owner is None:
            return None
        module = self.root.get_submodule(str(owner.target))
        return fake_quant_of(module) or fake_quant_of(getattr(module, "activation_post_process", None))

    def _insert_rounding(self, fx_node: fx.Node, operand: fx.Node, node: Node, source: FakeQuantizeBase) -> fx.Node | None:
        nodes = [each for each in self.ir.nodes if each.origin == node.origin and not _is_marker(each)]
        marked = [each for each in nodes if each.results[0].off_grid]
        if not marked:
            return None
        name, users = f"{fx_node.name}_on_grid", list(fx_node.users)
        pools = [each for each in marked if "gain" in each.attributes]
        if not pools:
            self.root.add_module(name, OffGridFakeQuantize(source))
            return self._insert_after(fx_node, name, users)
        alone = len(nodes) == 1
        self.root.add_module(
            name, GainPool(source, pools[0].attributes["kernel"] if alone else None, mean=nodes[-1] is not pools[-1])
        )
        rounding = self._insert_after(fx_node, name, users)
        rounding.args = (fx_node, operand)
        return rounding

    def _append(self, anchor: fx.Node, order: int, name: str, module: nn.Module) -> None:
        if not any(existing == name for _, _, existing, _ in self.appended):
            module.train(self.root.training)
            self.appended.append((self.position.get(anchor, len(self.position)), order, name, module))

    def _insert_after(self, producer: fx.Node, name: str, users: list[fx.Node]) -> fx.Node:
        with self.gm.graph.inserting_after(producer):
            call = self.gm.graph.create_node("call_module", name, (producer,), name=name)
        for user in users:
            user.replace_input_with(producer, call)
        return call

    def _dropped(self, fx_node: fx.Node) -> bool:
        """True for a tensor operation that canonicalization removed: it passes its input on."""
        return (
            fx_node.op in ("call_module", "call_function", "call_method")
            and fx_node.name not in self.ir_of
            and fx_node.name in self.fx_nodes
            and fx_node not in self.queries
            and len(fx_node.all_input_nodes) == 1
        )

    def _real_source(self, fx_node: fx.Node) -> fx.Node:
        while self._dropped(fx_node):
            fx_node = fx_node.all_input_nodes[0]
        return fx_node

    def _real_users(self, fx_node: fx.Node) -> list[fx.Node]:
        return [user for user in fx_node.users if user.name in self.fx_nodes or user.op == "output"]

    def _leads_to_bpu(self, fx_node: fx.Node) -> bool:
        stack, seen = [fx_node], set()
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            if self._dropped(current):
                stack.extend(current.users)
            elif current.name in self.ir_of and self.ir_of[current.name].device is Device.BPU:
                return True
        return False

    def _strip_cpu_qconfigs(self) -> None:
        for node in self.ir.nodes:
            if node.device is not Device.CPU or node.op.has(Trait.BOUNDARY):
                continue
            for name in node.origin:
                fx_node = self.fx_nodes.get(name)
                if fx_node is not None and fx_node.op == "call_module":
                    module = self.root.get_submodule(str(fx_node.target))
                    if getattr(module, "qconfig", None) is not None:
                        module.qconfig = None  # type: ignore[assignment]


def _folded_parameters(node: Node) -> tuple[Array, Array | None]:
    """Weight and bias of a conv-like node, batch norm included."""
    weight, bias = node.operand("weight"), node.operand("bias")
    assert weight is not None and weight.array is not None
    return weight.array, None if bias is None else bias.array


def _own_parameters(module: nn.Module) -> tuple[Array, Array | None]:
    """Weight and bias of a float layer as they are."""
    weight, bias = (None if p is None else p.detach().cpu().numpy() for p in (module.weight, module.bias))  # type: ignore[operator]
    assert weight is not None
    return weight, bias


def _is_marker(node: Node) -> bool:
    """A boundary that `insert-boundaries` put in (not a user's stub)."""
    return node.op.has(Trait.BOUNDARY) and not node.attributes.get("stub")


def _method_owner(fx_node: fx.Node) -> fx.Node | None:
    """The get_attr node of the module whose method is called, e.g. a FloatFunctional."""
    owner = fx_node.args[0] if fx_node.args else None
    return owner if isinstance(owner, fx.Node) and owner.op == "get_attr" else None
