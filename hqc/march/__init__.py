"""The chips: arithmetic numbers, dtype rules and support rules of every march. Imports no torch."""

from hqc.march.spec import MarchSpec
from hqc.march.state import March, all_specs, get_march, get_spec, set_march

__all__ = ["March", "MarchSpec", "all_specs", "get_march", "get_spec", "set_march"]
