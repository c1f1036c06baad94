"""Jobs from the document that asks for them to their end: queue, attempts, progress, batches and workers."""
