"""Forging: synthetic fakes of four methods, from samples and train photographs."""
