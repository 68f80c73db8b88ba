"""Small dense matrices as lists of rows."""

Matrix = list[list[float]]


def shape(matrix: Matrix) -> tuple[int, int]:
    """Numbers of rows and columns; rows of different lengths are an error."""
    columns = len(matrix[0]) if matrix else 0
    if any(len(row) != columns for row in matrix):
        raise ValueError("rows differ in length")  # hole
    return len(matrix), columns


def transpose(matrix: Matrix) -> Matrix:
    """Rows become columns."""
    return [list(column) for column in zip(*matrix, strict=True)]  # hole


def product(left: Matrix, right: Matrix) -> Matrix:
    """The matrix product; inner dimensions must agree."""
    rows, inner = shape(left)
    other, columns = shape(right)
    if inner != other:
        raise ValueError(f"{inner} columns times {other} rows")
    result = [[0.0] * columns for _ in range(rows)]
    for i in range(rows):  # hole: 3 lines
        for j in range(columns):
            result[i][j] = sum(left[i][k] * right[k][j] for k in range(inner))
    return result


def identity(size: int) -> Matrix:
    """Ones on the diagonal."""
    return [[1.0 if row == column else 0.0 for column in range(size)] for row in range(size)]


def power(matrix: Matrix, exponent: int) -> Matrix:
    """A square matrix times itself, by repeated squaring."""
    result = identity(len(matrix))
    while exponent:
        if exponent % 2:
            result = product(result, matrix)  # hole
        matrix = product(matrix, matrix)
        exponent //= 2
    return result


# ---- tests
assert shape([[1, 2, 3], [4, 5, 6]]) == (2, 3)
assert transpose([[1, 2, 3], [4, 5, 6]]) == [[1, 4], [2, 5], [3, 6]]
assert product([[1, 2], [3, 4]], [[5], [6]]) == [[17], [39]]
assert power([[1, 1], [1, 0]], 5) == [[8, 5], [5, 3]]
assert power([[2]], 0) == [[1.0]]
for wrong in (lambda: shape([[1], [1, 2]]), lambda: product([[1, 2]], [[1, 2]])):
    try:
        wrong()
    except ValueError:
        pass
    else:
        raise AssertionError("no error")
