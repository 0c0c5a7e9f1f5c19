"""The codec `ectcq`: integers chosen by a trellis with error feedback, then entropy-coded."""
