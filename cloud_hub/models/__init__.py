"""Model bundles on the hub: built from ONNX files, evaluated, written, checked."""
