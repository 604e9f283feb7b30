"""What Gristmill reads and did not make: raw inputs, anybody's Parquet, presets and models that come along."""
