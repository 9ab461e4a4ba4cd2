"""Training of a detector: loop, optimiser, batches, stored features, stacking."""
