"""Compute activation functions and their derivatives. `activation_call` runs them on arrays,
and other programs call `vector_math` on 16 lanes at a time.
"""
