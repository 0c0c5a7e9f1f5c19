"""Tune a compressed model so that it predicts like the original (`rbe compress --tune`)."""
