"""From a graph to a file: emit, write, read back, audit, run, compare; the file appears only when all of that went well."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from hqc.backends.onnx import verify as verification
from hqc.backends.onnx.audit import Finding, audit
from hqc.backends.onnx.builder import OPSET_VERSION
from hqc.backends.onnx.emit import Emission, emit_with_owners, march_of
from hqc.backends.onnx.hb_mapper import configuration, cpu_nodes
from hqc.backends.onnx.verify import Arrays, OutputComparison, Reference
from hqc.errors import ExportError
from hqc.ir import Graph

CONFIGURATION = "hb_mapper.yaml"
_PROTOBUF_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it compares.

    `path`: the ONNX file; `configuration`: the hb_mapper.yaml beside it (flavour `horizon` only). `outputs`: the output names
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


def export(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    flavour: str = "horizon",
    verify: bool = True,
    reference: Reference | None = None,
    sample_inputs: Arrays | None = None,
    opset_version: int = OPSET_VERSION,
) -> ExportReport:
    """Write `graph` (scaled; integer for flavour `integer`) to `path`, and for `horizon` hb_mapper.yaml beside it.

    `verify`: run the model in onnxruntime (for `horizon` its `runnable` twin) on `sample_inputs` (input name -> array; random
    when not given) and, where `reference` (input arrays by name -> output arrays by name) is given, compare. `ExportError`
    when the graph cannot be written, the file breaks a rule of hb_mapper, the path is not writable, or more than 1 % of an
    output is more than one quantization step from the reference and some of it more than two; the folder is then as before.
    """
    path = Path(path)
    if opset_version != OPSET_VERSION:
        raise ExportError(f"opset_version must be {OPSET_VERSION}, which hb_mapper reads, got {opset_version}")
    emission = emit_with_owners(graph, flavour=flavour)
    size = emission.model.ByteSize()
    if size > _PROTOBUF_LIMIT:
        raise ExportError(f"the model has {size} bytes, an ONNX file holds at most {_PROTOBUF_LIMIT}; split it")
    cpu = cpu_nodes(emission.owners)
    files = {path: emission.model.SerializeToString(deterministic=True)}
    if flavour == "horizon":
        files[path.with_name(CONFIGURATION)] = configuration(graph, path.name, cpu).encode()
    temporaries = {target: _temporary(target) for target in files}
    try:
        for target, data in files.items():
            _write(target, temporaries[target], data)
        written = onnx.load(temporaries[path])
        findings = _audited(written, graph, path, flavour)
        comparisons: list[OutputComparison] = []
        if verify:
            runnable = emit_with_owners(graph, flavour="runnable").model if flavour == "horizon" else written
            comparisons, doubts = _verified(graph, emission, runnable, reference, sample_inputs)
            findings += doubts
        for target, temporary in temporaries.items():
            _guarded(functools.partial(temporary.replace, target), target)
    finally:
        for temporary in temporaries.values():
            with contextlib.suppress(OSError):  # a path below a file: nothing was written
                temporary.unlink(missing_ok=True)
    return ExportReport(
        path=path,
        flavour=flavour,
        configuration=path.with_name(CONFIGURATION) if flavour == "horizon" else None,
        outputs=tuple(emission.outputs),
        run_on_cpu=tuple(cpu),
        findings=tuple(findings),
        executed=verify,
        comparisons=tuple(comparisons),
    )


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _guarded(action: Callable[[], object], path: Path) -> None:
    """Run a file operation; `ExportError` with the system's reason when it fails."""
    try:
        action()
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}") from None


def _write(target: Path, temporary: Path, data: bytes) -> None:
    if target.is_dir():
        raise ExportError(f"cannot write {target}: it is a folder, give the name of a file in it")
    _guarded(functools.partial(temporary.write_bytes, data), target)


def _audited(model: onnx.ModelProto, graph: Graph, path: Path, flavour: str) -> list[Finding]:
    """Errors are refused in every flavour; what only hb_mapper minds is said of the flavours in its domain."""
    findings = audit(model, march_of(graph))
    errors = [finding.message for finding in findings if finding.severity == "error"]
    if errors:
        raise ExportError(f"{path} was not written: {'; '.join(errors)}")
    return findings if flavour in ("horizon", "runnable") else []


def _verified(
    graph: Graph, emission: Emission, model: onnx.ModelProto, reference: Reference | None, samples: Arrays | None
) -> tuple[list[OutputComparison], list[Finding]]:
    """Comparisons with the reference, and a finding where the network amplifies rounding so much that they say nothing.

    Sums in another order flip some roundings. Where one step on one input element in a hundred moves an output about as far as
    the file is off, such flips alone explain the difference.
    """
    arrays = verification.sample_arrays(graph, samples)
    results = verification.run_model(model, arrays)
    if reference is None:
        return [], []
    comparisons = verification.compare(graph, emission.outputs, results, reference(arrays))
    failed = _failed(comparisons)
    if not failed:
        return comparisons, []
    nudged = verification.run_model(model, verification.nudged(graph, arrays))
    by_key = {key: results[name] for key, name in zip(graph.output_names, emission.outputs, strict=True)}
    moved = {item.name: item for item in _failed(verification.compare(graph, emission.outputs, nudged, by_key))}
    if all(item.name in moved and item.max_steps <= 2 * moved[item.name].max_steps for item in failed):
        message = (
            f"the network amplifies rounding: one step on one input element in a hundred moves {', '.join(moved)} by up to "
            f"{max(item.max_steps for item in moved.values()):.3g} steps, so the comparison with the model says nothing there"
        )
        return comparisons, [Finding("verified", "warning", message)]
    raise ExportError(
        "the exported model does not compute what the model computes: "
        + "; ".join(f"{item}, {item.over_one} by more than one step of {item.step:.4g}" for item in failed)
    )


def _failed(comparisons: list[OutputComparison]) -> list[OutputComparison]:
    return [comparison for comparison in comparisons if comparison.fails]
