"""The codec `fixed`: 2, 4 or 8 bits a weight, resident as stored."""
