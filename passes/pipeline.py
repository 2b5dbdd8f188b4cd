"""Running passes in order: stage checks, verification in between, times, remarks and dumps."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from hqc.checked import checked, explained
from hqc.errors import HqcError, PassError, VerificationError
from hqc.ir import STAGES, Graph
from hqc.ir.snapshot import Snapshot
from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.dumps import DumpSink, DumpWriter
from hqc.passes.pipeline_text import format_pass, parse_passes
from hqc.passes.registry import suggest


@explained
@dataclass(frozen=True)
class PassTiming:
    """Wall time of one pass, without verification and dumps, and the number of nodes it left."""

    pass_name: str
    seconds: float
    nodes: int
    changed: bool


@explained
@dataclass(frozen=True)
class PipelineReport:
    """What a pipeline run has to say: remarks in the order they were made, and one timing per pass."""

    remarks: tuple[Remark, ...]
    timings: tuple[PassTiming, ...]

    @property
    def changed(self) -> bool:
        """True when any pass changed the graph."""
        return any(timing.changed for timing in self.timings)

    @property
    def seconds(self) -> float:
        """Time spent in passes."""
        return sum(timing.seconds for timing in self.timings)

    @property
    def warnings(self) -> tuple[Remark, ...]:
        return tuple(remark for remark in self.remarks if remark.severity == "warning")


@explained
class PassPipeline:
    """An editable list of passes.

    `verify=False` leaves out what is checked between passes: the verifier, and whether a pass tells the truth about changes.
    """

    def __init__(self, passes: Iterable[Pass] = (), *, verify: bool = True) -> None:
        self.passes: list[Pass] = list(passes)
        self.verify = verify

    # --- editing ---------------------------------------------------------------------------------------------------

    def append(self, item: Pass | str) -> PassPipeline:
        """Add a pass (or pipeline text) at the end. Every editing method returns the pipeline itself."""
        self.passes.extend(_as_passes(item))
        return self

    def insert_before(self, name: str, item: Pass | str) -> PassPipeline:
        """Insert before the first pass called `name`; `PassError` when there is none."""
        index = self._index(name)
        self.passes[index:index] = _as_passes(item)
        return self

    def insert_after(self, name: str, item: Pass | str) -> PassPipeline:
        """Insert after the last pass called `name`; `PassError` when there is none."""
        self._index(name)
        last = max(index for index, known in enumerate(self.passes) if known.name == name)
        self.passes[last + 1 : last + 1] = _as_passes(item)
        return self

    def replace(self, name: str, item: Pass | str) -> PassPipeline:
        """Put `item` in the place of the first pass called `name`."""
        index = self._index(name)
        self.passes[index : index + 1] = _as_passes(item)
        return self

    def remove(self, name: str) -> PassPipeline:
        """Take the first pass called `name` out."""
        del self.passes[self._index(name)]
        return self

    def _index(self, name: str) -> int:
        for index, item in enumerate(self.passes):
            if item.name == name:
                return index
        raise PassError(f"the pipeline has no pass {name!r}; {suggest(name, [item.name for item in self.passes])}")

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def __len__(self) -> int:
        return len(self.passes)

    def __str__(self) -> str:
        return ",".join(map(format_pass, self.passes))

    def __repr__(self) -> str:
        return f"PassPipeline({str(self)!r})"

    # --- running ---------------------------------------------------------------------------------------------------

    def check_order(self, stage: str = "lowered") -> str:
        """The stage that a graph of `stage` has after the pipeline; `PassError` when a pass comes too early."""
        for index, item in enumerate(self.passes):
            for declared in filter(None, (item.requires, item.establishes)):
                if declared not in STAGES:
                    raise PassError(
                        f"pass developer: {item.name} declares the unknown stage {declared!r}; stages: {', '.join(STAGES)}"
                    )
            if STAGES.index(item.requires or STAGES[0]) > STAGES.index(stage):
                before = ", ".join(known.name for known in self.passes[:index]) or "nothing"
                raise PassError(
                    f"{item.name} needs a graph of stage {item.requires}, but after {before} it is only {stage}; "
                    f"{_who_establishes(item.requires)}"
                )
            stage = _later(stage, item.establishes)
        return stage

    def run(
        self, graph: Graph, context: PassContext, dump_dir: str | Path | DumpSink | None = None, *, dump_locations: bool = False
    ) -> PipelineReport:
        """Run every pass on `graph`, in place.

        With `dump_dir`, writes the graph before the first and after every pass, and a diff for each (a `DumpSink` gets the graphs
        themselves); `dump_locations` prints `loc(...)` in them. Errors: `PassError` for a wrong order or a pass that misbehaves or
        says of itself what is not so, `VerificationError` naming the pass after which a rule is broken, whatever a pass raises about
        the user's model, `InputError` when dumps cannot be written.
        """
        self.check_order(graph.stage)
        march = context.march.name
        if graph.march not in (None, march):
            raise PassError(f"the graph was lowered for {graph.march}, but the passes were asked to run for {march}")
        graph.march = march
        remarks: list[Remark] = []
        timings: list[PassTiming] = []
        sink = DumpWriter(dump_dir, locations=dump_locations) if isinstance(dump_dir, (str, Path)) else dump_dir
        with closing(sink) if sink is not None else nullcontext() as dumps:
            if dumps is not None:
                dumps.write("input", graph)
            self._verify(graph, context, 0)
            before = Snapshot(graph) if self.verify else None
            for index, item in enumerate(self.passes):
                stage = graph.stage
                result = self._run_one(item, graph, context, timings)
                remarks.extend(result.remarks)
                context.remarks.extend(result.remarks)
                if dumps is not None:
                    dumps.write(item.name, graph)
                changed = before is not None and not before.describes(graph)
                self._verify(graph, context, index + 1, changed)
                if before is not None:
                    _check_claim(item, result, changed, graph.stage != stage, dumps)
                    before = Snapshot(graph) if changed else before
        return PipelineReport(tuple(remarks), tuple(timings))

    def _run_one(self, item: Pass, graph: Graph, context: PassContext, timings: list[PassTiming]) -> PassResult:
        start = time.perf_counter()
        try:
            result = item.run(graph, context)
        except HqcError:
            raise
        except Exception as error:
            raise PassError(f"pass {item.name} failed: {type(error).__name__}: {error}") from error
        seconds = time.perf_counter() - start
        if not isinstance(result, PassResult):
            raise PassError(f"pass developer: {item.name}.run must return a PassResult, got {type(result).__name__}")
        graph.stage = _later(graph.stage, item.establishes)
        timings.append(PassTiming(item.name, seconds, len(graph), result.changed))
        return result

    def _verify(self, graph: Graph, context: PassContext, done: int, changed: bool = True) -> None:
        """A graph that prints as the one that was verified last can only have another structure."""
        if not self.verify:
            return
        from hqc.ir.verifier import verify, verify_structure

        try:
            if changed:
                verify(graph, march=context.march)
            else:
                verify_structure(graph)
        except VerificationError as error:
            if done == 0:
                raise VerificationError(f"before the first pass: {error}") from None
            before = ", ".join(item.name for item in self.passes[: done - 1])
            earlier = f" (it ran after {before})" if before else ""
            raise VerificationError(f"after {self.passes[done - 1].name}{earlier}: {error}") from None


def _check_claim(item: Pass, result: PassResult, changed: bool, advanced: bool, dumps: DumpSink | None) -> None:
    """`PassError` for a pass that says it changed the graph when it did not, or the other way round.

    A new stage alone is no change that a pass has to speak of, and none that it may not.
    """
    where = f" (see {dumps.last_diff})" if isinstance(dumps, DumpWriter) else ""
    if changed and not result.changed and not advanced:
        raise PassError(f"pass developer: {item.name} says it changed nothing, but the graph is another one{where}")
    if result.changed and not changed:
        raise PassError(f"pass developer: {item.name} says it changed the graph, which is as it was{where}")


@checked
def parse_pipeline(text: str, *, verify: bool = True) -> PassPipeline:
    """The pipeline that `text` describes, for example `"fold-batch-norm,partition{min-macs=1e6}"`.

    `ParseError` with line and column for unknown passes and options and for values of the wrong type.
    """
    return PassPipeline(parse_passes(text), verify=verify)


def _as_passes(item: Pass | str) -> list[Pass]:
    return parse_passes(item) if isinstance(item, str) else [item]


def _later(stage: str, established: str) -> str:
    return max(stage, established or stage, key=STAGES.index)


def _who_establishes(stage: str) -> str:
    from hqc.passes.registry import BUILTIN, get_pass

    names = [name for name in BUILTIN if get_pass(name).establishes == stage]
    return f"run {' or '.join(names)} first" if names else "no built-in pass establishes it"
