"""The standalone intermediate representation: types, graph, op declarations, text form, verifier. Imports no torch."""

from hqc.ir.files import load, save
from hqc.ir.graph import STAGES, Graph
from hqc.ir.nodes import Node, Value
from hqc.ir.op import Attr, OpDef, Operand, Trait, all_ops, get_op, op
from hqc.ir.parser import parse
from hqc.ir.printer import print_graph
from hqc.ir.types import Device, DType, Location, Observation, QuantParams, Reason, Request, Support, TensorType
from hqc.ir.verifier import check, verify

__all__ = [
    "STAGES",
    "Attr",
    "DType",
    "Device",
    "Graph",
    "Location",
    "Node",
    "Observation",
    "OpDef",
    "Operand",
    "QuantParams",
    "Reason",
    "Request",
    "Support",
    "TensorType",
    "Trait",
    "Value",
    "all_ops",
    "check",
    "get_op",
    "load",
    "op",
    "parse",
    "print_graph",
    "save",
    "verify",
]
