"""Multiply tokens by matrices in panels. `linear_call.matmul` runs a product on arrays, and other
programs call `products.multiply`.
"""
