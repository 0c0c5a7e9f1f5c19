"""Define the forms that a weight matrix has in memory.

`panel_matrix.PanelMatrix` is the form that kernels multiply by, and `coded_matrix.CodedMatrix`
stays entropy-coded; `weight_forms` hands on functions that take either, or an array.
"""
