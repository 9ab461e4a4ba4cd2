"""The champion over HTTP: an API for programs and a workbench for people."""
