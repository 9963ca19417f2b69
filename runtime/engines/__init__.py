"""What computes: the contract of engines, ONNX Runtime, and the table of them all."""
