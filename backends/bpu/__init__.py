"""The BPU simulator: integer-stage IR becomes a program of vectorized NumPy kernels, bit for bit docs/arithmetic.md."""

from hqc.backends.bpu.compile import compile
from hqc.backends.bpu.program import Program

__all__ = ["Program", "compile"]
