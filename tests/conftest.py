"""Settings of every test run: hypothesis without deadlines (a loaded machine is no error) and with the same examples every time."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("hqc", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("hqc")
