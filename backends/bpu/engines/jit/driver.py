"""The native loop over the steps of a segment."""

from __future__ import annotations

from numba import types

from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.finish import word
from hqc.backends.bpu.engines.jit.vector import call_kernel, fetch_add, load_i64, load_shared, yield_core

_SPINS = 200  # looks at a counter before the core is offered to others


def drive(table: int, steps: int, counters: int, scratch: int) -> None:
    """Work on the descriptors at the addresses in `table`, together with any other thread that does the same.

    A thread takes the tiles that nobody has, then waits until all tiles of the step are done. A helper that comes late, or never,
    costs nothing: nobody waits for a thread that holds no tile. `counters`: two zeroed words a step, 128 bytes apart.
    """
    for step in range(steps):
        descriptor, taken = load_i64(table + 8 * step), counters + 256 * step
        done, tiles, kernel = taken + 128, word(descriptor, f.TILES), word(descriptor, f.KERNEL)
        tile = fetch_add(taken, 1)
        while tile < tiles:
            call_kernel(kernel, descriptor, tile, scratch)
            fetch_add(done, 1)
            tile = fetch_add(taken, 1)
        spins = 0
        while load_shared(done) < tiles:
            spins += 1
            if spins > _SPINS:
                yield_core()


SIGNATURE = types.void(types.int64, types.int64, types.int64, types.int64)
