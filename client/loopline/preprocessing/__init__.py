"""What turns the steps of a file into what the network reads, in this order:

1. `max_length` and `stride` choose the steps. Everything after this sees the chosen steps only.
2. Categories get the number of their word among the words of training, from 1 on; 0 is a word that training does not
   have.
3. `missing` fills gaps: with the value before, the mean of training, or a line between neighbours.
4. `differences` to the step before replace the numbers, or are appended to them.
5. `scaling` scales the numbers.
6. Categories become a channel for each word (`one_hot`), or stay numbers that the network looks up (`embedding`).
7. `missing_mask` appends a channel for each feature that has gaps in training: 1 where a value was missing.
8. `patch` puts the channels of several steps side by side. Padding is zero.

Values of whole sequences (`Arrays.static`) go through steps 2, 3, 5, 6 (always `one_hot`) and 7.

All that is fitted comes from the training split. model.json has it, and `fitted.py` applies it: in the service to every
split, to the gate's samples and to what a warm start trains on; here to what somebody asks a model about. It needs
numpy.
"""
