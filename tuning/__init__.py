"""Optuna studies: search spaces, samplers, trials."""
