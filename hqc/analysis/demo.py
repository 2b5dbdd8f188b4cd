"""What `hqc demo` shows: a network on real data from float to integers, with reasons and figures."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import hqc
from hqc.analysis.advice import advise
from hqc.analysis.compare import STYLE
from hqc.demo import FORCED_CPU, Digits, DigitsNet, accuracy, load_digits, trained_network
from hqc.march import get_spec
from hqc.workflow.compile import Compiled
from hqc.workflow.explain import explain_prepared

EPOCHS = 8
CALIBRATION_BATCHES = 8


def run_demo(console: Console, march: str, out: Path) -> Compiled:
    """Train, compile, explain, measure; writes dumps and ONNX files under `out`. Returns the compiled network."""
    spec = get_spec(march)
    start = time.perf_counter()
    digits = load_digits()
    console.print(Panel.fit(f"[bold]hqc demo[/]: handwritten digits, compiled for [bold]{march}[/] ({', '.join(spec.chips)})"))
    model = _train(console, digits)
    compiled = _compile(console, model, digits, march, out)
    console.print(Text("\nWhere each operation runs, and why", style="bold"))
    console.print(compiled.placement.table(everything=True))
    console.print(compiled.placement.summary(), highlight=False, markup=False)
    for step in advise(explain_prepared(compiled.prepared)).steps:
        console.print(f"To change it: {step}", highlight=False, markup=False)
    _accuracy(console, model, compiled, digits)
    _export(console, compiled, digits, out)
    console.print(
        f"\nThe IR after every pass, with diffs: [bold]{out}/dumps/prepare[/], [bold]deploy[/] and [bold]deploy/integer[/]; "
        "open the last .hqc file."
    )
    console.print(
        f"Done in {time.perf_counter() - start:.0f} s. Next: [bold]hqc explain FILE.py:NAME --input 1,3,224,224[/] on your own model."
    )
    return compiled


def _bar(console: Console, description: str, total: int, work: Callable[[Callable[..., None]], object]) -> object:
    with Progress(
        TextColumn(description),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=not console.is_terminal,
    ) as progress:
        task = progress.add_task(description, total=total)
        return work(lambda *_: progress.advance(task))


def _train(console: Console, digits: Digits) -> DigitsNet:
    count = len(digits.train_y)
    model = _bar(
        console,
        f"training on {count} images (epochs)",
        EPOCHS,
        lambda tick: trained_network(digits, epochs=EPOCHS, progress=tick),
    )
    assert isinstance(model, DigitsNet)
    return model


def _compile(console: Console, model: DigitsNet, digits: Digits, march: str, out: Path) -> Compiled:
    batches = list(torch.split(digits.train_x, 64))[:CALIBRATION_BATCHES]
    compiled = _bar(
        console,
        "calibrating (batches)",
        len(batches),
        lambda tick: hqc.compile(
            model,
            digits.test_x[:1],
            march=march,
            calibration_data=batches,
            hybrid_dict=FORCED_CPU,
            dump_dir=out / "dumps",
            progress=tick,
        ),
    )
    assert isinstance(compiled, Compiled)
    for remark in compiled.remarks:
        if remark.severity == "warning":
            console.print(Text(f"  warning {remark}", style="yellow"))
    return compiled


def _accuracy(console: Console, model: DigitsNet, compiled: Compiled, digits: Digits) -> None:
    with torch.no_grad():
        float_logits = model(digits.test_x).numpy()
    fake_logits = compiled.fake_quant(digits.test_x)
    integer_logits = compiled.simulate(digits.test_x)
    table = Table(title=f"Accuracy on {len(digits.test_y)} held-out images", **STYLE)
    table.add_column("model")
    table.add_column("accuracy", justify="right")
    table.add_column("same answer as float", justify="right")
    for name, logits in (("float32", float_logits), ("fake quant", fake_logits), ("integer simulator", integer_logits)):
        same = float((logits.argmax(1) == float_logits.argmax(1)).mean() * 100)
        table.add_row(name, f"{accuracy(logits, digits.test_y):.2f} %", f"{same:.2f} %")
    console.print()
    console.print(table)


def _export(console: Console, compiled: Compiled, digits: Digits, out: Path) -> None:
    import onnxruntime

    out.mkdir(parents=True, exist_ok=True)
    compiled.export(out / "digits.onnx")
    compiled.export(out / "digits_runnable.onnx", flavour="runnable")
    session = onnxruntime.InferenceSession(str(out / "digits_runnable.onnx"), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    outputs = np.concatenate([session.run(None, {name: image[None].numpy()})[0] for image in digits.test_x])
    expected = compiled.fake_quant(digits.test_x)
    step = np.abs(expected).max() / 127.5
    differing = int((np.rint(outputs / step) != np.rint(expected / step)).sum())
    same = int((outputs.argmax(1) == expected.argmax(1)).sum())
    console.print(
        f"\nonnxruntime on the exported file, {len(outputs)} images: at most {np.abs(outputs - expected).max() / step:.2f} "
        f"steps from the fake-quant model ({differing} of {outputs.size} outputs round to another step); same answer on {same} of "
        f"{len(outputs)}.",
        highlight=False,
    )
    console.print(f"For the board: [bold]{out}/digits.onnx[/] and [bold]{out}/digits.yaml[/] go to hb_mapper.")
