"""From a graph to a file: emit, audit, run, compare, write; the file appears only when all of that went well."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from hqc.backends.onnx import verify as verification
from hqc.backends.onnx.audit import Finding, audit
from hqc.backends.onnx.builder import OPSET_VERSION
from hqc.backends.onnx.emit import Emission, emit_with_owners, march_of
from hqc.backends.onnx.hb_mapper import configuration, cpu_nodes, may_replace
from hqc.backends.onnx.opaque import OpaqueCalls
from hqc.backends.onnx.parts import TracedReference, differing_parts
from hqc.backends.onnx.skeleton import Skeleton
from hqc.backends.onnx.verify import Arrays, OutputComparison, Reference
from hqc.checked import checked, explained
from hqc.data.preprocessing import Preprocessing
from hqc.errors import ExportError
from hqc.files import Contents, check_file_target, write_files
from hqc.ir import Graph


@explained
@dataclass(frozen=True)
class ExportReport:
    """What was written and how it compares.

    `path`: the ONNX file; `configuration`: the yaml for hb_mapper beside it (flavour `horizon` only). `outputs`: the output names
    in the file. `run_on_cpu`: ONNX nodes that must stay on the CPU. `findings`: what hb_mapper may object to. `executed`: the
    model ran in onnxruntime; `comparisons`: beside the reference, one per output, empty without one.
    """

    path: Path
    flavour: str
    configuration: Path | None
    outputs: tuple[str, ...]
    run_on_cpu: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    executed: bool = False
    comparisons: tuple[OutputComparison, ...] = field(default=())

    def __str__(self) -> str:
        lines = [f"{self.path} ({self.flavour}), {len(self.run_on_cpu)} nodes kept on the CPU"]
        if self.configuration is not None:
            lines.append(f"{self.configuration}")
        lines += [str(finding) for finding in self.findings]
        lines += [str(comparison) for comparison in self.comparisons]
        return "\n".join(lines)


@checked
def export(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    flavour: str = "horizon",
    verify: bool = True,
    reference: Reference | None = None,
    sample_inputs: Arrays | Sequence[Arrays] | None = None,
    simulator: Reference | None = None,
    opaque: OpaqueCalls | None = None,
    opset_version: int = OPSET_VERSION,
    overwrite_configuration: bool = False,
    preprocessing: Mapping[str, Preprocessing] | None = None,
) -> ExportReport:
    """Write `graph` (scaled; integer for flavour `integer`) to `path`, and for `horizon` `<stem>.yaml` for hb_mapper beside it.

    A yaml that is not as hqc wrote it is kept, and the report says so, unless `overwrite_configuration`.

    `opaque`: callables of the graph's opaque nodes by id; those that are `Writable` are written in standard ops.

    `preprocessing`: by input, what is done to pictures before the model; the yaml tells hb_mapper.

    `verify`: run the model in onnxruntime (for `horizon` its `runnable` twin) on `sample_inputs` (input name -> array, or several
    such samples; random when not given) and, where `reference` (input arrays by name -> output arrays by name) is given, compare.
    `simulator`, a second reference, computes the same in integers: that the file is further from it than rounding explains is a
    warning of the report. `ExportError` when the graph cannot be written, the file breaks a rule of hb_mapper, the path is not
    writable, or more than 1 % of an output is more than one quantization step from the reference and some of it more than two, unless
    the reference is a `TracedReference` and every operation agrees with it on the same operands; the folder is then as before.
    """
    check_file_target(path, error=ExportError)
    path = Path(path)
    if opset_version != OPSET_VERSION:
        raise ExportError(f"opset_version must be {OPSET_VERSION}, which hb_mapper reads, got {opset_version}")
    emission = emit_with_owners(graph, flavour=flavour, opaque=opaque)
    cpu = cpu_nodes(emission.owners)
    files: dict[Path, Contents] = {path: emission.skeleton.chunks()}
    config, kept = path.with_suffix(".yaml"), False
    if flavour == "horizon":
        kept = not (overwrite_configuration or may_replace(config))
    if flavour == "horizon" and not kept:
        files[config] = configuration(graph, path.name, emission, preprocessing or {}).encode()
    written = onnx.load_model_from_string(emission.skeleton.model.SerializeToString(deterministic=True))
    findings = _audited(written, graph, path, flavour)
    if kept:
        message = f"{config} is not as hqc wrote it and is kept; to have it written again delete it, or overwrite it (--force)"
        findings.append(Finding("configuration-kept", "warning", message))
    comparisons: list[OutputComparison] = []
    if verify:
        runnable = emission.skeleton
        if flavour == "horizon":
            runnable = emit_with_owners(graph, flavour="runnable", opaque=opaque).skeleton
        run = verification.runner_of(runnable)
        samples = [sample_inputs] if sample_inputs is None or isinstance(sample_inputs, Mapping) else list(sample_inputs)
        for each in samples or [None]:
            arrays = verification.sample_arrays(graph, each)
            checked = _verified(graph, emission, runnable, run(arrays), arrays, reference, simulator)
            comparisons += checked[0]
            findings += [finding for finding in checked[1] if finding not in findings]
        comparisons = verification.worst(comparisons)
    write_files(files, error=ExportError)
    return ExportReport(
        path=path,
        flavour=flavour,
        configuration=config if flavour == "horizon" else None,
        outputs=tuple(emission.outputs),
        run_on_cpu=tuple(cpu),
        findings=tuple(findings),
        executed=verify,
        comparisons=tuple(comparisons),
    )


def _audited(model: onnx.ModelProto, graph: Graph, path: Path, flavour: str) -> list[Finding]:
    """Errors are refused in every flavour; what only hb_mapper minds is said of the flavours in its domain."""
    findings = audit(model, march_of(graph))
    errors = [finding.message for finding in findings if finding.severity == "error"]
    if errors:
        raise ExportError(f"{path} was not written: {'; '.join(errors)}")
    return findings if flavour in ("horizon", "runnable") else []


def _verified(
    graph: Graph,
    emission: Emission,
    model: Skeleton,
    results: Arrays,
    arrays: Arrays,
    reference: Reference | None,
    simulator: Reference | None,
) -> tuple[list[OutputComparison], list[Finding]]:
    """Comparisons of the file's `results` with the reference on one sample, and what the references make doubtful."""
    findings = []
    if simulator is not None:
        expected = simulator(arrays)
        compared = verification.compare(graph, emission.outputs, results, expected)
        problem, _ = _judged(graph, emission, model, arrays, simulator, expected, compared)
        if problem:
            findings.append(
                Finding("verified", "warning", f"the simulator is further from the file than rounding explains: {problem}")
            )
    if reference is None:
        return [], findings
    expected = reference(arrays)
    comparisons = verification.compare(graph, emission.outputs, results, expected)
    problem, doubts = _judged(graph, emission, model, arrays, reference, expected, comparisons)
    if problem:
        raise ExportError(f"the exported model does not compute what the model computes: {problem}")
    return comparisons, [*findings, *doubts]


def _judged(
    graph: Graph,
    emission: Emission,
    model: Skeleton,
    arrays: Arrays,
    reference: Reference,
    expected: Arrays,
    comparisons: list[OutputComparison],
) -> tuple[str, list[Finding]]:
    """What is wrong, and findings where the comparison says nothing: the network amplifies rounding, or an output hangs on a choice.

    Where outputs are far off, each operation is judged by itself on the reference's own operands: if none is, the file computes what
    the reference does, and single roundings grew on the way.
    """
    failed = _failed(comparisons)
    chosen = verification.outputs_of_choices(model.model)
    turned = [item for item in failed if emission.outputs[graph.output_names.index(item.name)] in chosen]
    findings = [_turned_over(item) for item in turned]
    failed = [item for item in failed if item not in turned]
    if not failed:
        return "", findings
    problem = "; ".join(f"{item}, {item.over_one} by more than one step of {item.step:.4g}" for item in failed)
    if not isinstance(reference, TracedReference):
        return problem, findings
    wrong = differing_parts(graph, model, emission.outputs, arrays, reference, expected)
    if wrong:
        return f"{problem}; first where the operands are the same: {_located(graph, wrong[0])}", findings
    message = (
        f"the network amplifies rounding: every operation agrees with the model on the same operands, and {problem}, because single "
        "roundings grow from layer to layer (trained weights seldom do that)"
    )
    return "", [*findings, Finding("verified", "warning", message)]


def _located(graph: Graph, comparison: OutputComparison) -> str:
    value = graph.values.get(comparison.name)
    where = "" if value is None or value.producer is None else f" ({value.producer.label})"
    return f"{comparison}{where}"


def _turned_over(comparison: OutputComparison) -> Finding:
    """Quantized scores are often equal, and torch and runtimes order equals as they please."""
    return Finding(
        "verified",
        "warning",
        f"{comparison}: it hangs on a choice among near equals (TopK, ArgMax), which one rounding turns over, so the comparison with "
        "the model says nothing there",
    )


def _failed(comparisons: list[OutputComparison]) -> list[OutputComparison]:
    return [comparison for comparison in comparisons if comparison.fails]
