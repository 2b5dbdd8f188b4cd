"""Where the vendor's tables contradict themselves, each other, or what their compiler does: what hqc decides, in one place.

The predicates carry the decisions out; documentation prints this list.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """`subject`: the rows concerned. `sources`: what they say. `decision`: what hqc does. `predicate`: where it is carried out."""

    subject: str
    sources: str
    decision: str
    predicate: str


DECISIONS = (
    Decision(
        "ONNX table and torch table",
        "they disagree for many ops (PRelu on bayes: CPU in one, BPU in the other)",
        "with hybrid=True the ONNX rows decide and the torch rows add int16 and ops that the ONNX table lacks (SiLU, GELU); "
        "with hybrid=False the torch rows decide",
        "hqc.march.rules.OpRules.entries",
    ),
    Decision(
        "Conv on bernoulli2: channels per group",
        "at most 2048, and beside it at most 4096 for plain convolutions",
        "the first is the limit of dilated, grouped and depthwise convolutions; on bayes and bayes-e the last convolution of the "
        "model has the wider limit instead of the general one",
        "hqc.march.predicates.windows",
    ),
    Decision(
        "Conv on bernoulli2: dilation",
        "a power of two, divisible by the stride: read literally, no strided convolution without dilation would run",
        "the rule is about dilated convolutions",
        "hqc.march.predicates.windows",
    ),
    Decision(
        "GlobalAveragePool on bernoulli2: 8192 positions",
        "pools of 224x224 compile: the tool splits them into pools with windows of up to 7 whose stride is the window",
        "the limit holds for maps that such windows do not divide",
        "hqc.march.predicates.tensors",
    ),
    Decision(
        "Split: equal parts",
        "the tables want parts of equal size, the compiler puts parts of 32, 32 and 64 channels on the BPU",
        "unequal parts run as slices, which have no limit",
        "hqc.march.predicates.layout",
    ),
    Decision(
        "Softmax on bayes and bayes-e: axis",
        "axis 3 in ONNX's sense of opset 11, axis 1, 2 or 3 in torch's sense",
        "the softmax of the IR has torch's sense, which decides",
        "hqc.march.predicates.layout",
    ),
    Decision(
        "cat on bayes in the torch table: H x W x C at most 65536",
        "a limit on the product would refuse maps that compile",
        "read as the limit of each of height, width and channels, as in the neighbouring rows",
        "hqc.march.predicates.tensors",
    ),
    Decision(
        "MatMul on bernoulli2: two runtime operands",
        "the table has the form 1BMK*11KN, all logs have such products on the CPU",
        "the CPU by default; a request for the BPU is granted within the table",
        "hqc.march.observed.CONSTANT_MATRIX",
    ),
    Decision(
        "Add on bernoulli2: the form NC11",
        "the table wants both operands computed; the compiler puts adds with a constant [1,C,1,1] on the BPU, adds of a scalar not",
        "the form may be a constant; an add of a scalar is the CPU's but behind a convolution on the BPU, which takes it in",
        "hqc.march.predicates.elementwise",
    ),
    Decision(
        "Look-up tables on bernoulli2: at most 8192 elements",
        "the table has the limit; the compiler lists larger ones on the BPU and remarks that they may run on the CPU at run time",
        "the BPU, with that remark; SiLU, which the ONNX table lacks, has the remark of Sigmoid",
        "hqc.march.rules.Rule.advice",
    ),
    Decision(
        "Reshape on bernoulli2: flatten before a linear layer",
        "the table has Reshape and Flatten on the CPU; Gemm is a convolution where height and width are at most 7, without a reshape",
        "such a flatten belongs to the linear layer and is on the BPU with it",
        "hqc.march.facts.absorbed_flatten",
    ),
    Decision(
        "5-D add and mul with a constant on bayes",
        "the table admits those whose axes merge to four, the logs have them on the CPU",
        "the CPU by default; a request for the BPU is granted within the table",
        "hqc.march.observed.NO_CONSTANT_IN_5D",
    ),
    Decision(
        "Limits on the batch (N = 1 on bernoulli2)",
        "a model lowered with example inputs of a larger batch would leave the BPU",
        "sizes are judged as if the model had batch 1, which is what the chip runs",
        "hqc.march.facts.graph_batch",
    ),
)
