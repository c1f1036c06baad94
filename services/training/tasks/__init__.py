"""What is learnt: a module for each task, which is a kind of target and how it is judged. `known.py` has the table.

A new task is a module here, a row in that table, and its name in `task.Target`. A new metric is a row of measures.py.

The API imports these modules too, so they import neither torch nor anything that imports torch. A function that needs
tensors imports metrics.py or gate/scores.py when it is called.
"""
