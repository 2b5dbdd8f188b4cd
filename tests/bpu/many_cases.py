"""Many random layers on every engine, bit for bit beside the int64 reference.

    python tests/bpu/many_cases.py [--cases 10000] [--seed 0]

Dense, depthwise, grouped, dilated and pointwise convolutions with any padding, linear layers, transposed convolutions, int8 and int16, all
modes of requantization, residuals, sums beyond 2^24; and small networks of tokens and images: products of activations, sums, broadcasts,
copies. `make test` runs the same generators on fewer cases.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from test_bpu_products import conv_cases, linear_cases, transpose_cases
from test_bpu_tokens import token_networks

from hqc.backends.bpu import compile
from hqc.backends.bpu.engines import jit, onednn


def engines() -> list[tuple[str, list[str] | None]]:
    """Engines, `jit` once per product of this processor."""
    found: list[tuple[str, list[str] | None]] = [("blas", None)]
    if onednn.available() and onednn.exact():
        found.append(("onednn", None))
    if jit.available():
        from hqc.backends.bpu.engines.jit import library

        found += [("jit", [product]) for product in library.products()]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    compared: Counter[str] = Counter()
    native: Counter[str] = Counter()

    @seed(options.seed)
    @settings(
        max_examples=options.cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(conv_cases(), conv_cases(), linear_cases(), transpose_cases(), token_networks()))
    def run(case):
        graph, inputs = case
        expected = compile(graph, engine="reference").run(inputs)
        for name, products in contenders:
            if products:
                jit.library.products = lambda products=products: products
            program = compile(graph, engine=name, threads=2)
            label = name if products is None else f"{name} {products[0]}"
            for output, found in program.run(inputs).items():
                assert found.dtype == expected[output].dtype
                np.testing.assert_array_equal(found, expected[output], err_msg=f"{label}: {graph}")
            compared[label] += 1
            native[label] += all(step.native is not None for step in program.steps)

    contenders = engines()
    before = jit.library.products
    start = time.perf_counter()
    try:
        run()
    finally:
        jit.library.products = before
    for label, count in compared.items():
        extra = f", {native[label]} of them native" if label.startswith("jit") else ""
        print(f"{label}: {count} cases equal the reference bit for bit{extra}")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
