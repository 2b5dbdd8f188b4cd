"""What an exported file is compared with: the fake-quantized model and the simulator, on named NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from hqc.frontend.fx.calls import UsersInterpreter
from hqc.structures import map_structure
from hqc.workflow.runner import Runner, arrays_of, as_arrays

Array = npt.NDArray[Any]
See = Callable[[str, Array], None]
"""Gets values by name as they are computed; the arrays may be written later."""


class ModelReference:
    """A torch model (prepared or converted). `inputs`: the structure it takes; `output_names`: of the graph."""

    def __init__(self, model: nn.Module, inputs: Any, output_names: Sequence[str]) -> None:
        self.model = model
        self.inputs = inputs
        self.output_names = tuple(output_names)

    def __call__(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        with torch.no_grad():
            outputs = arrays_of(as_arrays(self.model(*self._arguments(arrays))))
        return dict(zip(self.output_names, outputs, strict=True))

    def visit(self, arrays: Mapping[str, Array], see: See) -> None:
        """Show what every node of the model's FX graph gives, reals as they are before a fake quant of their own."""
        if isinstance(self.model, fx.GraphModule):
            with torch.no_grad():
                _Shown(self.model, see).run(*self._arguments(arrays))

    def _arguments(self, arrays: Mapping[str, Array]) -> Any:
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        given = iter(arrays.values())
        return map_structure(
            self.inputs,
            lambda leaf: torch.from_numpy(next(given)).to(device) if isinstance(leaf, (torch.Tensor, np.ndarray)) else leaf,
        )


class _Shown(UsersInterpreter):
    def __init__(self, model: fx.GraphModule, see: See) -> None:
        super().__init__(model)
        self.see = see

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor) and n.op not in ("placeholder", "output"):
            self.see(n.name, result.detach().cpu().numpy())
        return result


class SimulatorReference:
    """The simulator of a deployed model, for the shapes it was deployed with."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def __call__(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        return self.runner.named_program(arrays).run(arrays)

    def visit(self, arrays: Mapping[str, Array], see: See) -> None:
        """Show every value of the program, as integers where it holds integers of a grid."""
        self.runner.named_program(arrays).run(arrays, see=see)
