"""Forms of a trained run for others: ONNX files, a page for a browser, a model card."""
