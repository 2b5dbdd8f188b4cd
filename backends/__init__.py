"""Back ends: the BPU simulator and the ONNX emitter."""
