"""What a planned graph is worth: placement, advice, costs. NumPy and IR only."""
