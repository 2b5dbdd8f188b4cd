"""One file per command: `some_name.py` is `hqc some-name`, and its `command` is a click command of that name.

A command module imports neither torch nor onnx at its top, so that `hqc --help` is fast: the work is imported inside the command.
"""
