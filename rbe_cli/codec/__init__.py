"""Weight matrices as hybrid-encoded blocks: log-scales and entropy-coded integers."""
