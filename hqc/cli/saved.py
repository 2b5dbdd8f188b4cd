"""Commands that take a file of `Compiled.save` as well as a model: it is compiled already, and has a march.

A quantized ONNX file is like that once it is compiled with the scales that it brings: there is no float model behind it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hqc.cli.language import tr
from hqc.cli.options import compile_model

if TYPE_CHECKING:
    from hqc.workflow.compile import Compiled
    from hqc.workflow.loaded import LoadedModel

SAVED = ".safetensors"


def takes_saved_models(command: click.Command) -> click.Command:
    """Decorator: the chip need not be said."""
    next(parameter for parameter in command.params if parameter.name == "march").required = False
    return command


def is_saved(model: str) -> bool:
    return model.endswith(SAVED)


def compiled_or_loaded(**given: Any) -> Compiled | LoadedModel:
    """The saved model that MODEL names, or what `compile_model` makes of it (of a quantized file as `hqc compile` does)."""
    if is_saved(given["model"]):
        import hqc

        return hqc.load(given["model"])
    if given["march"] is None:
        raise click.UsageError(tr("Missing option '--march', the chip that the model is compiled for."))
    return compile_model(file_scales=True, **given)


def has_float_model(model: Compiled | LoadedModel) -> bool:
    """False for what only the deployed model is known of."""
    from hqc.workflow.loaded import LoadedModel

    return not isinstance(model, LoadedModel)
