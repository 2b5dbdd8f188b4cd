"""Front ends: `fx` lowers PyTorch models; each front end is a package of its own."""
