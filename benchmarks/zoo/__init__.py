"""The model zoo, made from finished runs: weights, figures, cards."""
