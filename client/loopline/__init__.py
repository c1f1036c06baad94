"""Client and command of Loopline: submit training jobs over HTTP and wait for their models."""
