"""Arrays in, figures out: binary metrics, bootstrap, intervals, repeated runs, permutation, distances."""
