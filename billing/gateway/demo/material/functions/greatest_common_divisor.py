"""Compute the greatest common divisor of two numbers."""


def greatest_common_divisor(first, second):
    """Return the largest whole number that divides both numbers, by Euclid's algorithm."""
    while second:
        first, second = second, first % second
    return abs(first)


if __name__ == "__main__":
    assert greatest_common_divisor(12, 18) == 6
    assert greatest_common_divisor(17, 5) == 1
    assert greatest_common_divisor(0, 9) == 9
    assert greatest_common_divisor(-12, 18) == 6
    print("The greatest common divisor of 48 and 180 is", greatest_common_divisor(48, 180))
    print("All checks passed.")
