"""Predicts with the folder of a finished job, without the service.

`loading.load` is what `loopline.load` is. It needs numpy and safetensors, and computes with onnxruntime, with torch, or
with numpy alone; tables and files need pyarrow: `pip install "loopline[predict]"`.

A model answers in these steps:

1. `inputs.py` and `tables.py` make sequences (`given.py`) of what somebody asks about.
2. A backend prepares them as in training, runs the network, and gives numbers in the unit of the data (`outcome.py`).
3. `answers.py` names the numbers: classes, tags, columns, times.
"""
