"""Emitters by op family; the registry imports all of them."""
