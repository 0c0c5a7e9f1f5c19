"""Trains a compressed model so that it predicts as the original does (`rbe compress --tune`)."""
