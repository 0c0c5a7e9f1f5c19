"""Make the columns of a matrix orthonormal, with the same bits on every CPU."""

from rbe_cli.algebra.dense_products import product
from rbe_cli.algebra.factors import Float64, cholesky_in_place, upper_inverse
from rbe_cli.runtime.thread_team import Team


def orthonormal(columns: Float64, team: Team | None = None) -> Float64:
    """Return the orthonormal columns that Gram and Schmidt's process makes of independent ones.

    It is Cholesky QR (Golub and Van Loan 2013, 5.2.2 and 4.2): with the columns' products
    A^T A = L L^T, the result is A L^-T.

    Args:
        columns: A, float64 `[n, n]`.
        team: the threads that multiply; None for the calling thread.
    """
    lower = product(columns.T, columns, team=team)
    cholesky_in_place(lower, team)
    return product(columns, upper_inverse(lower.T), team=team)
