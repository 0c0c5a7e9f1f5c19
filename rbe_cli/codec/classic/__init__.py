"""The codec `classic`: the original design's surfaces and transform coefficients."""
