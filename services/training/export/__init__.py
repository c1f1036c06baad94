"""A trained model as an ONNX file, `model.onnx`: raw data in, answers out. docs/onnx.md has its inputs and outputs.

The graph is built by hand from what model.json says and from the weights, with operators that every runtime has:
`preprocessing.py` does what was fitted, `network.py` is the network, `answers.py` makes probabilities or values of what
its head answers. `model.py` puts them together, and `checked.py` compares the result with PyTorch.

onnx and onnxruntime take a third of a second to import, so `run.py` imports this package when training has ended.
"""
