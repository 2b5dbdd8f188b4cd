"""torch's own samples of its modules and functions, each as a small model that goes the whole way."""
