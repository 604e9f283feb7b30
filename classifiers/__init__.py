"""fastText quality classifiers: train, evaluate, score."""
