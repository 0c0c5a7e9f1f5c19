"""Define the forms that a weight matrix has in memory.

`panel_matrix.PanelMatrix` is the form that kernels multiply by; `weight_forms` hands on functions
that take any compressed form, or an array.
"""
