"""The pipelines that every entry point runs, built from `CompileOptions`; and how users put passes of their own into them.

    from hqc.workflow.pipelines import edit
    hqc.compile(model, x, march="bayes", calibration_data=data, edits=[edit(after="fuse-conv", item=MyPass())])

The command line's `--pass file.py:MyPass@after=fuse-conv` makes the same edits. No torch here.
"""

from __future__ import annotations

from hqc.checked import checked_but
from hqc.errors import PassError
from hqc.near_names import near
from hqc.passes.base import Pass
from hqc.passes.pipeline import PassPipeline, parse_pipeline
from hqc.passes.registry import get_pass
from hqc.workflow.options import PIPELINES, CompileOptions, Edit

PLACE = "canonicalize,apply-overrides,fold-batch-norm,fuse-conv,canonicalize,analyze-support,partition"
# What has no QAT module (a functional convolution with its batch norm, or constants) is folded and fused again, as the plan says.
# Absorbing the fake quants between BPU nodes makes subgraphs adjacent that they kept apart: partition once more.
DEPLOY = (
    "canonicalize,fold-batch-norm{constants=true},fuse-conv,apply-plan,partition,insert-boundaries{form=deployed},partition,"
    "settle-rounding,propagate-scales,unify-cat-scales,add-half-steps,lower-to-integer"
)
INTEGER = "lower-to-integer"


@checked_but("item")
def edit(*, item: Pass | str, after: str = "", before: str = "", pipeline: str = "") -> Edit:
    """A pass (or pipeline text) for the pipelines: behind the last pass called `after`, or before the first called `before`.

    Without either, a pass goes behind the one that establishes the stage it requires (`partition` for `partitioned`), and a pass
    for lowered graphs behind `fuse-conv`, where the float graph has its final form and is not judged yet.
    `pipeline`: `prepare` (which explain runs too) or `deploy` alone; by default each that has such a pass. `PassError` for
    anything else.
    """
    if not (after or before) and isinstance(item, Pass):
        after = _place_of(item)
    return Edit(item, after, before, pipeline)


def _place_of(item: Pass) -> str:
    """Name of the pass that makes a graph ready for `item`."""
    names = [known.name for name in PIPELINES for known in _plain(name, None, False) if known.establishes == item.requires]
    return names[0] if item.requires and names else "fuse-conv"


def prepare_pipeline(options: CompileOptions | None = None, *, verify: bool = True) -> PassPipeline:
    """Float model to the whole plan: what runs where, where fake quants and dequants go, who is observed and how it is rounded.

    `prepare_*_fx` emits the result.
    """
    return _edited("prepare", options, verify)


def explain_pipeline(options: CompileOptions | None = None, *, verify: bool = True) -> PassPipeline:
    """The same passes as `prepare_pipeline`: what `hqc.explain` shows is what `prepare_*_fx` and `hqc.compile` do."""
    return prepare_pipeline(options, verify=verify)


def deploy_pipeline(options: CompileOptions | None = None, *, integer: bool = False, verify: bool = True) -> PassPipeline:
    """Prepared model, lowered again and carrying scales, to the *scaled* graph or, with `integer`, on to the *integer* graph.

    Devices come from the plan in the pass context.
    """
    pipeline = _edited("deploy", options, verify)
    return pipeline if integer else PassPipeline(pipeline.passes[: _integer_at(pipeline)], verify=verify)


def integer_pipeline(options: CompileOptions | None = None, *, verify: bool = True) -> PassPipeline:
    """The rest of `deploy`: *scaled* graph to *integer* graph."""
    pipeline = _edited("deploy", options, verify)
    return PassPipeline(pipeline.passes[_integer_at(pipeline) :], verify=verify)


def _integer_at(pipeline: PassPipeline) -> int:
    return next(index for index, item in enumerate(pipeline) if item.name == INTEGER)


def _plain(name: str, options: CompileOptions | None, verify: bool) -> PassPipeline:
    """The pipeline without the user's edits."""
    options = options or CompileOptions("bayes")  # no pass of a pipeline depends on the march: it is in the context
    if name == "deploy":
        pipeline = parse_pipeline(DEPLOY, verify=verify)
        pipeline.replace("propagate-scales", _pass("propagate-scales", conflict=options.conflict_policy))
        unify = _pass("unify-cat-scales", policy=options.cat_policy, optimized=options.optimize_graph)
        pipeline.replace("settle-rounding", _pass("settle-rounding", nearest=options.rounds_to_nearest))
        return pipeline.replace("unify-cat-scales", unify)
    partition = _pass(
        "partition",
        horizontal_merge=options.horizontal_merge,
        min_macs=float(options.min_macs),
        min_nodes=options.min_nodes,
    )
    pipeline = parse_pipeline(PLACE, verify=verify).replace("partition", partition)
    # Dropout acts in training: for a model that will train it stays until fusion is done, so that no layer swallows it, and goes
    # before placement, which it has no part in. What is quantized after training is fused across it, as an exported file is, and
    # constants behind a layer, which may be trained, are folded into it.
    trains = options.form != "ptq"
    pipeline.replace("canonicalize", _pass("canonicalize", training=trains))
    pipeline.replace("fold-batch-norm", _pass("fold-batch-norm", constants=not trains))
    pipeline.append(_pass("insert-boundaries", form="qat", auto_stub=options.form == "ptq" or options.stub_inputs))
    pipeline.append(_pass("place-observers", share=options.optimize_graph))
    return pipeline.append(_pass("settle-rounding", nearest=options.rounds_to_nearest))


def _edited(name: str, options: CompileOptions | None, verify: bool) -> PassPipeline:
    pipeline = _plain(name, options, verify)
    edits = options.edits if options is not None else ()
    known = {item.name for other in PIPELINES for item in _plain(other, options, False)}
    for each in edits:
        here = any(item.name == each.anchor for item in pipeline)
        if each.pipeline in ("", name) and here:
            (pipeline.insert_after if each.after else pipeline.insert_before)(each.anchor, each.item)
        elif each.pipeline == name or each.anchor not in known:
            where = f"the pipeline {name} has" if each.pipeline == name else "the pipelines have"
            close = near(each.anchor, sorted(known))
            hint = f"did you mean {' or '.join(close)}?" if close else f"they have {', '.join(sorted(known))}"
            raise PassError(f"{where} no pass {each.anchor!r} to put another beside; {hint}")
        known |= {item.name for item in (PassPipeline().append(each.item))}
    return pipeline


def _pass(name: str, **options: object) -> Pass:
    return get_pass(name)(**options)
