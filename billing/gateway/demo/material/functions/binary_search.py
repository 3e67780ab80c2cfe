"""Find a value in a sorted list by binary search."""


def binary_search(values, value):
    """Return the index of a value in a list in ascending order, or -1 if it is not there."""
    low, high = 0, len(values) - 1
    while low <= high:
        middle = (low + high) // 2
        if values[middle] == value:
            return middle
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle - 1
    return -1


if __name__ == "__main__":
    assert binary_search([], 1) == -1
    numbers = list(range(0, 100, 3))
    assert all(numbers[binary_search(numbers, number)] == number for number in numbers)
    assert binary_search(numbers, 50) == -1
    print("42 is at index", binary_search(numbers, 42), "of", numbers)
    print("All checks passed.")
