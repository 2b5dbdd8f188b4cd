"""The blocks of docs/adding_an_op.md, run in order, add an op that lowers, is placed, and exports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "adding_an_op.md"

CHECK = """
import onnxruntime
from torch import nn
import hqc
from hqc.backends.onnx import emit_segment
from hqc.march import get_spec
from hqc.passes import PassContext, PassPipeline, parse_pipeline


class Model(nn.Module):
    def forward(self, x):
        return x.logit()


x = torch.rand(1, 3, 4, 4)
graph = hqc.lower(Model(), x)
(node,) = graph.nodes
assert (node.name, node.op.name) == ("logit", "logit")
session = onnxruntime.InferenceSession(emit_segment([node], graph.inputs, node.results).SerializeToString())
assert np.allclose(session.run(None, {"x": x.numpy()})[0], torch.logit(x), atol=1e-6)
context = PassContext(get_spec("bayes"))
PassPipeline(parse_pipeline("analyze-support")).run(graph, context)
assert node.support is not None and node.support.accepted, node.support
"""


def test_page_adds_an_op() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    # A process of its own: the registries of this one are what other tests check.
    done = subprocess.run([sys.executable, "-c", "\n".join([*blocks, CHECK])], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
