"""Op declarations by family; `hqc.ir.op.OPS` imports all of them."""
