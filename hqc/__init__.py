"""hqc: an open hybrid quantization compiler."""
