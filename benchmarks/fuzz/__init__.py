"""Inputs that nobody should give: seeded, by grammar and by mutation. `python -m benchmarks.fuzz --minutes 5`.

Whatever is given, the answer is a result or one sentence (`hqc.errors`). Everything else is counted: raw errors, hangs of more than
five seconds, growth by more than a gigabyte.
"""
