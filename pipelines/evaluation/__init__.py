"""Sealed test, robustness, audit and explanation of registered models."""
