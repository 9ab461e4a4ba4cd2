"""Gate, promotion, lineage, comparison, model card and bundle."""
