"""Results against baselines: table, statistics, pictures."""
