"""Compute the factorial of a number."""


def factorial(number):
    """Return the product of the whole numbers from 1 to `number`. The factorial of 0 is 1."""
    if number < 0:
        raise ValueError("a negative number has no factorial")
    result = 1
    for factor in range(2, number + 1):
        result *= factor
    return result


if __name__ == "__main__":
    assert [factorial(n) for n in range(6)] == [1, 1, 2, 6, 24, 120]
    assert factorial(20) == 2_432_902_008_176_640_000
    try:
        factorial(-1)
    except ValueError:
        pass
    else:
        raise AssertionError("a negative number must be refused")
    for number in (0, 5, 10):
        print(f"{number}! = {factorial(number)}")
    print("All checks passed.")
