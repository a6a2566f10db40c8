"""A trained game as ONNX graphs, for runtimes without PyTorch."""
