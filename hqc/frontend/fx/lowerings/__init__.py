"""Lowerings by family; the registry imports all of them."""
