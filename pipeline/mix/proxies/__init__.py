"""Small models trained on mixtures: n-gram models and transformers, and what their curves say."""
