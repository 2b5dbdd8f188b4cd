"""What a planned graph is worth: placement and costs. NumPy and IR only."""
