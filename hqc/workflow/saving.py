"""From a compiled model to what its file holds: the structures of its inputs and outputs, and the ONNX forms of what torch runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import torch
from torch.utils import _pytree as pytree

from hqc.data.preprocessing import Preprocessing
from hqc.workflow.arguments import input_names
from hqc.workflow.deployment import Deployment
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.runner import Array, restore
from hqc.workflow.saved import SavedModel, TensorRef, encoded, opaque_nodes


def saved_model(
    prepared: ObservedGraphModule,
    deployment: Deployment,
    samples: Sequence[Mapping[str, Array]],
    preprocessing: Mapping[str, Preprocessing],
) -> SavedModel:
    """The contents of the file; `ExportError` names an operation that has no form in standard operations."""
    calls: Mapping[str, Any] = deployment.opaque
    forms = {
        node.name: calls[str(node.attributes["id"])].form(node).SerializeToString(deterministic=True)
        for node in opaque_nodes(deployment.scaled)
    }
    numbers = count()
    planned = prepared.preparation.inputs or ()
    inputs = pytree.tree_map_only(torch.Tensor, lambda _: TensorRef(next(numbers)), list(planned))
    outputs = restore(prepared, deployment.outputs, [TensorRef(index) for index in range(len(deployment.scaled.outputs))])
    return SavedModel(
        deployment.scaled,
        deployment.integer,
        inputs=encoded(tuple(inputs)),
        input_names=tuple(input_names(prepared)),
        outputs=encoded(outputs),
        samples=[dict(sample) for sample in samples],
        remarks=list(deployment.remarks),
        forms=forms,
        preprocessing=dict(preprocessing),
    )
