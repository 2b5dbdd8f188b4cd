"""The torch emitter: a new FX graph, written in one walk over the traced model, that computes what the planned IR graph says.

Nothing is decided here. Conv-like operations of the BPU become quantized-training layers at their module's place; stubs, fake quants,
roundings and dequantizes become modules; everything else is a copy of the call it was, with its operands in the version that the plan
says it reads. Names of inserted nodes and modules follow HYBRID section 2 of the design.
"""

from __future__ import annotations

import inspect
import operator
from typing import Any

from torch import fx, nn

from hqc.frontend.fx.assumptions import ASSUMPTIONS_META, Assumption, assumption, check_assumption, depends_on_sizes
from hqc.frontend.fx.calls import with_zeros, written_out_of_place
from hqc.frontend.fx.equals import in_definite_order
from hqc.frontend.fx.in_place import FIRST_OPERANDS, writes_first_operand
from hqc.frontend.fx.locations import MODULE_META, ORIGIN_META, SOURCE_META
from hqc.frontend.fx.lowered import LoweredModel
from hqc.frontend.fx.proxies import IN_PLACE_META
from hqc.frontend.fx.training import training_argument
from hqc.frontend.fx.updates import TRAINING_ONLY_META, detach_tensors, update_in_training, writing_method
from hqc.frontend.fx.views import written_node
from hqc.ir import Device, Node, Trait, Value
from hqc.march.spec import MarchSpec
from hqc.nn.qat.layer import QATLayer
from hqc.nn.qat.mapping import qat_stub
from hqc.passes.steps import divided
from hqc.quantization.fake_quantize import BoundaryFakeQuantize
from hqc.quantization.off_grid import FixedPointSample, GainPool, OffGridFakeQuantize
from hqc.structures import reached
from hqc.workflow.activation_configs import ActivationConfigs
from hqc.workflow.emit_layers import LayerBuilder, LayerGroup, find_groups, source_of
from hqc.workflow.emit_observers import SCALES_META, Observers
from hqc.workflow.emit_operands import Operands
from hqc.workflow.emit_steps import StepWriter
from hqc.workflow.emit_tree import ModuleTree
from hqc.workflow.emit_values import PlannedValues, is_inserted_boundary, value_paths
from hqc.workflow.emit_weights import WeightedCalls

# A random function that nothing reads is erased too. Newer torch counts it as impure unless told, torch 2.4 never asks.
_EVEN_IF_RANDOM = {"impure_random": False} if "impure_random" in inspect.signature(fx.Node.is_impure).parameters else {}


def emit(
    traced: fx.GraphModule,
    root: nn.Module,
    lowered: LoweredModel,
    march: MarchSpec,
    configs: ActivationConfigs,
    *,
    wrap_boundaries: bool,
    keep_batch_norm: bool = False,
    trains: bool = True,
) -> fx.Graph:
    """The graph of the emitted model; `root`, the module tree that `traced` calls, gets its layers and inserted modules.

    `lowered`: the lowered model, whose graph the passes have planned. `configs`: the qconfigs in force. `wrap_boundaries`: boundary
    fake quants print inside a wrapper (QAT). `keep_batch_norm`: layers keep the batch norm that the plan folded. `trains`: False where
    the emitted model is only calibrated.
    """
    tree = ModuleTree(root, traced)
    observers = Observers(march, configs, tree.device, traced.meta.get(SCALES_META))
    return _Emitter(traced, lowered, tree, observers, wrap_boundaries, keep_batch_norm, trains).run()


class _Emitter:
    """One walk. `env`: node of the traced model -> node of the new graph that holds its value now."""

    def __init__(
        self,
        traced: fx.GraphModule,
        lowered: LoweredModel,
        tree: ModuleTree,
        observers: Observers,
        wrap_boundaries: bool,
        keep_batch_norm: bool,
        trains: bool,
    ) -> None:
        self.traced = traced.graph
        self.assumptions: dict[str, list[Assumption]] = {}
        for assumed in traced.meta.get(ASSUMPTIONS_META, ()):
            self.assumptions.setdefault(assumed.node, []).append(assumed)
        self.tensors = lowered.tensors
        self.numbers = lowered.numbers
        self.updates = lowered.updates
        self.kept: set[fx.Node] = set()
        self.graph = fx.Graph(tracer_cls=getattr(traced.graph, "_tracer_cls", None))
        self._given: set[str] = set()  # names of nodes that the model does not have
        self.values = PlannedValues(traced.graph, lowered)
        self.tree = tree
        self.observers = observers
        self.march = observers.march
        self.trains = trains
        self.wrap_boundaries = wrap_boundaries
        self.position = {node: index for index, node in enumerate(traced.graph.nodes)}
        self.env: dict[fx.Node, fx.Node] = {}
        self.now: dict[str, fx.Node] = {}  # value name -> node that holds it, on its grid
        self.quantized: dict[str, fx.Node] = {}  # value name -> node that holds it behind the fake quant for BPU readers
        self.took_quantized: set[fx.Node] = set()
        self.dequantized: dict[str, fx.Node] = {}  # boundary name -> its call
        groups = find_groups(self.values, tree)
        self.group_of = {member: group for group in groups for member in group.members}
        self.layers = LayerBuilder(groups, tree, self.march, keep=keep_batch_norm, trains=trains)
        self.built: dict[Node, tuple[str, QATLayer, fx.Node]] = {}  # of a group: path, layer, its input
        self.pending: dict[fx.Node, LayerGroup] = {}
        self.observed: dict[str, Value] = {}  # name of a value behind which a fake quant goes -> the value
        self.divided = divided(lowered.graph)
        self.steps = StepWriter(self)
        self.weights = WeightedCalls(self)
        self.composites: set[str] = set()  # calls that are written step by step
        self._find_observed({id(group.node) for group in groups})
        for size in dict.fromkeys(size for group in groups for size in self._sizes_in(group)):
            source = str(size.meta.get(SOURCE_META, ""))
            self.assumptions.setdefault(size.name, []).append(assumption(size, self.numbers[size.name], False, source))

    def _sizes_in(self, group: LayerGroup) -> list[fx.Node]:
        """The sizes that the weight of a layer takes in (`conv(x) / x.shape[0]`): it is right for these alone."""
        folded = [member for member in group.members if member is not group.conv]
        factors = [arg for member in folded for arg in member.all_input_nodes if not self.values.holds_tensor(arg)]
        numbers = [
            node
            for factor in factors
            for node in reached(factor, lambda node: () if node.name in self.numbers else node.all_input_nodes)
        ]
        return [node for node in numbers if node.name in self.numbers and depends_on_sizes(node)]

    def run(self) -> fx.Graph:
        plain_calls: list[fx.Node] = []
        for old in self.traced.nodes:
            if old.op == "output":
                self._output(old)
                continue
            if old in self.group_of:
                self._member(old, self.group_of[old])
            elif old in self.pending or self._joins_pending(old):
                pass
            elif self._stub_of(old) is not None:
                self._stub(old, self._stub_of(old))
            elif old.name in self.updates:
                self._update(old)
            elif self.steps.takes(old):
                self.steps.take(old)
            elif (value := self.values.repeats(old)) is not None:
                self.env[old] = self.now[value.name]
            elif old.name in self.composites:
                self.steps.write(old, self.values.nodes_of(old))
            else:
                new = self._copy(old)
                if old.op == "call_module":
                    plain_calls.append(new)
            if old in self.env:
                self._after(old)
                for name in self.values.write(old):
                    self.env[name] = self.env[old]
                for assumed in self.assumptions.get(old.name, ()):
                    what = (self.env[old], assumed.value, assumed.truth, assumed.text)
                    self.graph.call_function(check_assumption, what).meta = dict(old.meta)
        self._erase_unread()
        self._strip_cpu_qconfigs()
        self.tree.finish(self.graph, plain_calls)
        self.graph.lint()
        return self.graph

    def _erase_unread(self) -> None:
        """Erase what nothing reads: what the model computes for nothing, and what a layer has taken in."""
        for node in reversed(self.graph.nodes):
            if node in self.kept:
                continue
            if not node.users and (node.op == "call_module" or not node.is_impure(**_EVEN_IF_RANDOM)):
                self.graph.erase_node(node)

    def _find_observed(self, layers: set[int]) -> None:
        """The values of BPU operations behind which fake quants go, other than those that layers own; and the calls that are written
        step by step because of them, or because their steps have devices of their own."""
        stepwise = set(self.divided)
        for node in self.values.graph.nodes:
            if id(node) in layers or node.op.has(Trait.BOUNDARY):
                continue
            for value in filter(self.observers.is_observed, node.results):
                if self.values.has_carrier(value) or len(node.results) > 1:
                    self.observed[value.name] = value
                else:  # a step inside one operation of the model
                    stepwise.update(node.origin[-1:])
        last_of = {node.origin[-1] for node in self.values.graph.nodes if node.origin} & self.values.fx_nodes.keys()
        pending = list(stepwise)
        while pending:  # with what took in the last step of another, and whose last step was taken in
            for node in self.values.nodes_of(self.values.fx_nodes[pending.pop()]):
                joined = [name for name in node.origin if name in last_of and name not in self.composites]
                self.composites.update(joined)
                pending.extend(joined)

    # --- copies ------------------------------------------------------------------------------------------------------------

    def _copy(self, old: fx.Node) -> fx.Node:
        """The call as it was, with its operands mapped; written out of place where it writes in place."""
        weighted = self.weights.copy(old)
        if weighted is not None:
            return weighted
        operands = Operands(self, old)
        op, target, args, kwargs = old.op, old.target, old.args, dict(old.kwargs)
        if self.values.writes(old):
            op, target, args, kwargs = written_out_of_place(old)
            if old.op == "call_module":
                self.tree.write_out_of_place(str(old.target))
        args, kwargs = operands.map(args), operands.map(kwargs)
        if self.values.writes(old) and op == "call_function" and writes_first_operand(target):
            args, kwargs = self._on_a_clone(args, kwargs)
        if training_argument(old) is not None:
            args, kwargs = self._in_the_modules_mode(old, args, kwargs)
        definite = in_definite_order(op, target)
        if definite is not None:
            op, target = "call_function", definite
        target, kwargs = with_zeros(target, kwargs)
        new = self.graph.create_node(op, target, args, kwargs, old.name, old.type)
        new.meta = {key: value for key, value in old.meta.items() if key != IN_PLACE_META}
        self.env[old] = new
        if (
            written_node(new, self.tree.root) is not None
        ):  # into what is computed from parameters alone: it is read by who shares it
            self.kept.add(new)
        return new

    def _on_a_clone(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a function that writes into its first operand, with a clone of that."""
        if args:
            return (self.graph.call_method("clone", args[:1]), *args[1:]), kwargs
        name = next(name for name in FIRST_OPERANDS if name in kwargs)
        return args, {**kwargs, name: self.graph.call_method("clone", (kwargs[name],))}

    def _update(self, old: fx.Node) -> None:
        """A call that changes a buffer, or that serves only that: as it was, on tensors that need no gradients."""

        def operand(node: fx.Node) -> fx.Node:
            held = self.env[node]
            if node.name in self.updates or node.op == "get_attr":
                return held
            detached = self.graph.call_function(detach_tensors, (held,))
            detached.meta = dict(old.meta)
            return detached

        args, kwargs = fx.node.map_arg(old.args, operand), fx.node.map_arg(dict(old.kwargs), operand)
        op, target = old.op, old.target
        method = writing_method(old)
        if TRAINING_ONLY_META in old.meta and method is not None:
            op, target, args = "call_function", update_in_training, (self._mode(old), method, *args)
        new = self.graph.create_node(op, target, args, kwargs, old.name, old.type)
        new.meta = {key: value for key, value in old.meta.items() if key not in (IN_PLACE_META, TRAINING_ONLY_META)}
        self.env[old] = new
        self.kept.add(new)

    def _mode(self, old: fx.Node) -> fx.Node:
        """Whether the module that `old` belongs to trains, asked at every call."""
        path = str(old.meta.get(MODULE_META, ""))
        while path not in self.tree.floats:  # an exported graph has no layers without tensors: the layer around them
            path = path.rpartition(".")[0]
        path = ".".join(filter(None, (path, "training")))
        return self.graph.create_node("get_attr", path, (), {}, self.free_name(f"{old.name}_training"))

    def _in_the_modules_mode(
        self, old: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a dropout, which the trace saw in eval mode, so that it acts while its module trains."""
        argument = training_argument(old)
        assert argument is not None
        name, position = argument
        mode = self._mode(old)
        if position < len(args):
            return (*args[:position], mode, *args[position + 1 :]), kwargs
        return args, {**kwargs, name: mode}

    def _output(self, old: fx.Node) -> None:
        new = self.graph.output(fx.node.map_arg(old.args[0], self.env.__getitem__), old.type)
        new.meta = dict(old.meta)
        self.graph.set_codegen(self.traced._codegen)

    def call(self, path: str, args: tuple[Any, ...], name: str) -> fx.Node:
        """Append a call of an inserted module."""
        return self.graph.create_node("call_module", path, args, {}, name)

    # --- stubs -------------------------------------------------------------------------------------------------------------

    def _stub_of(self, old: fx.Node) -> Node | None:
        nodes = self.values.nodes_of(old)
        return nodes[0] if len(nodes) == 1 and nodes[0].op.has(Trait.BOUNDARY) and old.op == "call_module" else None

    def _stub(self, old: fx.Node, node: Node | None) -> None:
        assert node is not None
        path = str(old.target)
        if node.op.name == "quantize":
            module: nn.Module = qat_stub(self.tree.floats[path], self.observers.make(node.result, old.name))
        else:
            module = self.observers.dequant_stub(node)
        self._copy(old).target = self.tree.place(path, module)

    # --- behind a value ----------------------------------------------------------------------------------------------------

    def _after(self, old: fx.Node) -> None:
        """Write what goes directly behind the values that `old` is the first to hold: roundings, fake quants, boundaries."""
        held = self.values.held(old)
        if isinstance(held, Value):
            if self.values.is_carrier(old, held):
                self.env[old] = self.settle(held, self.env[old], old)
        elif held is not None:
            for path, value in value_paths(held):
                if not self.values.has_carrier(value):
                    element = self.env[old]
                    for step, key in enumerate(path, start=1):
                        name = self.free_name(value.name if step == len(path) else f"{element.name}_{key}")
                        element = self.graph.create_node("call_function", operator.getitem, (element, key), {}, name)
                    self.settle(value, element, old)

    def settle(self, value: Value, new: fx.Node, old: fx.Node) -> fx.Node:
        """`new` holds `value`: write its rounding, its fake quant and the boundary behind it; returns the node that holds it then."""
        new = self._on_grid(value, new, old)
        observed = self.observed.get(value.name)
        if observed is not None:
            fake_quant = self.observers.make(observed, value.name)
            new = self.insert(f"{value.name}_activation_post_process", fake_quant, (new,), old)
        self.now[value.name] = new
        for boundary in value.users:
            if is_inserted_boundary(boundary) and boundary.op.name == "quantize" and value.name not in self.quantized:
                self.quantized[value.name] = self._boundary(boundary, new, old)
        return new

    def _boundary(self, boundary: Node, new: fx.Node, old: fx.Node) -> fx.Node:
        """The fake quant, or the inserted QuantStub, between a CPU value and its BPU readers."""
        fake_quant = self.observers.make(boundary.result, old.name)
        module: nn.Module = fake_quant
        if boundary.attributes.get("stub"):
            module = qat_stub(nn.Identity(), fake_quant)
        elif self.wrap_boundaries:
            module = BoundaryFakeQuantize(fake_quant)
        return self.insert(boundary.name, module, (new,), old)

    def insert(self, name: str, module: nn.Module, args: tuple[Any, ...], old: fx.Node, order: int = 0) -> fx.Node:
        """Append a call of a new module, listed in the tree at the place of `old`."""
        path = self.tree.insert(self.position[old], order, name, module)
        return self.call(path, args, name)

    def _on_grid(self, value: Value, new: fx.Node, old: fx.Node) -> fx.Node:
        """Put a result that keeps its operand's scale and leaves its grid back on it, as the kernel does."""
        nodes = [value.producer] if old.name in self.composites else self.values.nodes_of(old)
        off_grid = [node for node in nodes if node is not None and node.results[0].off_grid]
        source = self.observers.behind(off_grid[0].operands[0]) if off_grid else None
        if source is None:
            return new
        name = f"{value.name}_on_grid"
        pools = [node for node in off_grid if "gain" in node.attributes]
        if off_grid[0].op.has(Trait.SAMPLES):
            image, grid = (new.args[i] if i < len(new.args) else new.kwargs[name] for i, name in enumerate(("input", "grid")))
            return self.insert(name, FixedPointSample(source, **off_grid[0].attributes), (new, image, grid), old)
        if not pools:
            return self.insert(name, OffGridFakeQuantize(source), (new,), old)
        operand = pools[0].operands[0]
        before = self.quantized.get(source_of(operand).name) or self.now[operand.name]
        window = pools[0].attributes["kernel"] if len(nodes) == 1 else None
        return self.insert(name, GainPool(source, window, mean=nodes[-1] is not pools[-1]), (new, before), old)

    # --- layers ------------------------------------------------------------------------------------------------------------

    def _member(self, old: fx.Node, group: LayerGroup) -> None:
        """A member of a fused group: the layer is called at the anchor, and every reader of a member gets its result."""
        if old is group.conv:
            self._build(group)
        if old is group.anchor:
            self._call_layer(group)
        elif old not in self.env:
            self.pending[old] = group
            if old is group.conv and self._is_asked_early(group):
                self._write_like(group)
        if old in self.env:
            self.now[group.node.result.name] = self.env[old]

    def _joins_pending(self, old: fx.Node) -> bool:
        """True for what the plan dropped between members of a group: the layer stands for it too."""
        if not self.values.passes_on(old):
            return False
        group = next((self.pending[operand] for operand in old.all_input_nodes if operand in self.pending), None)
        if group is None:
            return False
        self.pending[old] = group
        return True

    def _build(self, group: LayerGroup) -> None:
        node, conv = group.node, group.conv
        observed = self.observers.is_observed(node.result)
        fake_quant = self.observers.make(node.result, group.members[-1].name) if observed else None
        layer = self.layers.build(group, self.observers.weight_entry(node), fake_quant)
        owner = _functional_owner(group.anchor)
        for member in group.members:
            if member.op == "call_module":
                self.tree.absorb(str(member.target))
        path = self.tree.place(str(conv.target) if owner is None else str(owner.target), layer)
        operands = Operands(self, conv)
        x = next(operands(operand) for operand in conv.all_input_nodes if self.values.holds_tensor(operand))
        self.built[node] = path, layer, x

    def _call_layer(self, group: LayerGroup) -> None:
        path, layer, x = self.built[group.node]
        anchor, residual, planned = group.anchor, group.residual, group.node.operand("residual")
        args: tuple[Any, ...] = (x,)
        if planned is not None:
            operands = Operands(self, anchor)
            added = [operand for operand in anchor.all_input_nodes if self.values.value(operand) is residual]
            if not added:  # a step inside the addition: `torch.add(conv(x), y, alpha=2)`
                self.steps.write(anchor, [node for node in self.values.nodes_of(anchor) if node is not group.node])
            args = (x, operands(added[0]) if added else operands.of_value(planned))
        owner = _functional_owner(anchor)
        if owner is not None:
            call_args = [arg for arg in anchor.all_input_nodes if arg is not owner]
            layer.conv_position = 0 if self.values.value(call_args[-1]) is residual else 1
            self.env[owner].target = path
            ordered = args if layer.conv_position == 0 else args[::-1]
            new = self.graph.create_node("call_method", "add", (self.env[owner], *ordered), {}, anchor.name)
        else:
            new = self.graph.create_node("call_module", path, args, self._size_asked_for(group.conv), anchor.name)
        new.meta = {**anchor.meta, ORIGIN_META: self.values.origin(group.node)}
        new.meta.pop(IN_PLACE_META, None)
        waiting = [member for member, owner_group in self.pending.items() if owner_group is group]
        for member in dict.fromkeys((*group.members, *waiting)):
            self.env[member] = new
            self.pending.pop(member, None)
        self.now[group.node.result.name] = new

    def _size_asked_for(self, conv: fx.Node) -> dict[str, Any]:
        """The `output_size` of the call of a transposed convolution, where it has one."""
        sizes = conv.kwargs.get("output_size", conv.args[1] if conv.op == "call_module" and len(conv.args) > 1 else None)
        return {} if sizes is None else {"output_size": Operands(self, conv).map(sizes)}

    def _is_asked_early(self, group: LayerGroup) -> bool:
        """True when the model asks for the size of a member's result before the residual exists, often to make it."""
        end = self.position[group.anchor]
        return any(
            self.position[user] < end and user not in group.members and not self.values.holds_tensor(user)
            for member in self._before_residual(group)
            for user in member.users
        )

    def _before_residual(self, group: LayerGroup) -> list[fx.Node]:
        """The members before the residual is added, with what the plan dropped behind them."""
        end = self.position[group.anchor]

        def dropped(node: fx.Node) -> list[fx.Node]:
            return [user for user in node.users if self.position[user] < end and self.values.passes_on(user)]

        members = [member for member in group.members if self.position[member] < end]
        return list(dict.fromkeys(node for member in members for node in reached(member, dropped)))

    def _write_like(self, group: LayerGroup) -> None:
        """A tensor of the shape of the layer's result, for members whose size is asked for before the layer can be called."""
        path, _, x = self.built[group.node]
        layer = self.graph.create_node("get_attr", path, (), {}, self.free_name(f"{group.conv.name}_layer"))
        like = self.graph.create_node("call_method", "result_like", (layer, x), {}, group.conv.name)
        like.meta = dict(group.conv.meta)
        for member in self._before_residual(group):
            self.env[member] = like
            self.pending[member] = group

    def free_name(self, base: str) -> str:
        """`base`, or `base_1`, ...: a name that no node of the model has, nor was given before. FX, asked for a name twice, takes the next
        one, which may be that of a node of the model.
        """
        name, count = base, 0
        while name in self.values.fx_nodes or name in self._given:
            count += 1
            name = f"{base}_{count}"
        self._given.add(name)
        return name

    # --- the rest of the tree ------------------------------------------------------------------------------------------------

    def _strip_cpu_qconfigs(self) -> None:
        """Modules on the CPU stay float and lose their qconfig."""
        for node in self.values.graph.nodes:
            if node.device is Device.CPU and not node.op.has(Trait.BOUNDARY):
                for member in self.values.members(node):
                    if member.op == "call_module":
                        module = self.tree.root.get_submodule(str(member.target))
                        if getattr(module, "qconfig", None) is not None:
                            module.qconfig = None  # type: ignore[assignment]


def _functional_owner(fx_node: fx.Node) -> fx.Node | None:
    """The get_attr node of the module whose method is called, e.g. a FloatFunctional."""
    owner = fx_node.args[0] if fx_node.op == "call_method" and fx_node.args else None
    return owner if isinstance(owner, fx.Node) and owner.op == "get_attr" and fx_node.op == "call_method" else None
