"""The forms that a weight matrix has in memory, from panels of integers to entropy-coded bytes."""
