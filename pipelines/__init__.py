"""The command line and the whole jobs: run, balance, promote."""
