"""A graph as a picture: boxes for operations and boundaries, shaded BPU subgraphs, modules that fold into one box."""

from hqc.analysis.picture.boxes import Box, Group, Picture, picture_of
from hqc.analysis.picture.dot import dot_text
from hqc.analysis.picture.files import draw, model_explorer, onnx_with_devices, svg

__all__ = ["Box", "Group", "Picture", "dot_text", "draw", "model_explorer", "onnx_with_devices", "picture_of", "svg"]
