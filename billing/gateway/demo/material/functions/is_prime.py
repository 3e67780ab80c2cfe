"""Check whether a number is prime."""


def is_prime(number):
    """Return True if a whole number is prime, else False."""
    if number < 2:
        return False
    divisor = 2
    while divisor * divisor <= number:
        if number % divisor == 0:
            return False
        divisor += 1
    return True


if __name__ == "__main__":
    assert [n for n in range(30) if is_prime(n)] == [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
    assert not is_prime(-7)
    assert is_prime(7919)
    assert not is_prime(7917)
    for number in (1, 2, 9, 97):
        print(number, "is prime" if is_prime(number) else "is not prime")
    print("All checks passed.")
