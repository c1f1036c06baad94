"""Fits what turns the steps of a file into what the network reads, on the training split.

`loopline.preprocessing` of the client has the order of the steps, and applies what was fitted.
"""
