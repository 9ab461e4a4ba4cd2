"""Gate, promotion, comparison, lineage, model card and bundle."""
