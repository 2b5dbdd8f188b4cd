"""From a seed to a program: a few steps drawn by weight, then an output structure that users return."""

from __future__ import annotations

import random

from draft import Draft, Program, Tensor
from steps import STEPS


def generate(seed: int, *, stubs: bool = False) -> Program:
    """The program of a seed: always the same one. `stubs`: with a QuantStub per input and DeQuantStubs, as for QAT."""
    rng = random.Random(seed)
    draft = Draft(rng)
    size = rng.choice([(3, 12, 12), (3, 9, 13), (4, 8, 8)])
    inputs = [Tensor("x", size)]
    if rng.random() < 0.15:
        inputs.append(Tensor("x1", size))
    draft.live.extend(inputs)
    for tensor in inputs if stubs else ():
        draft.line(f"{tensor.name} = {draft.member('quant', 'QuantStub()')}({tensor.name})")
    names, weights = list(STEPS), [weight for _, weight in STEPS.values()]
    STEPS["conv"][0](draft)  # the file needs a convolution, and so does every network of these users
    draft.features.append("conv")
    for _ in range(rng.randint(2, 9)):
        for _ in range(20):
            name = rng.choices(names, weights)[0]
            if STEPS[name][0](draft):
                draft.features.append(name)
                break
    outputs = _outputs(draft, inputs, draft.member("dequant", "DeQuantStub()") if stubs else "")
    return Program(seed, stubs, draft.source(outputs), tuple(tensor.shape for tensor in inputs), tuple(draft.features))


def _outputs(draft: Draft, inputs: list[Tensor], dequantize: str) -> str:
    computed = [tensor.name for tensor in draft.live if tensor not in inputs]
    last, other = computed[-1], draft.rng.choice(computed)
    forms = ["{0}"] * 6 + [
        "({0}, {1})",
        "[{0}, {1}]",
        '{{"out": {0}, "aux": {1}}}',
        "({0}, None)",
        "({0}, 2, ({1},))",
        "Pair({0}, {1})",
        "({0}, {0}.argmax(1))",
    ]
    form = draft.rng.choice(forms)
    draft.features.append(f"returns {form}")
    return form.format(f"{dequantize}({last})", f"{dequantize}({other})") if dequantize else form.format(last, other)
