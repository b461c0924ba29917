"""What INT8 must reach: quality, speed, the quantiser of ONNX Runtime beside it, and the cost of calibration."""
