"""Sort a list by bubble sort."""


def bubble_sort(values):
    """Return a new list with the values in ascending order."""
    result = list(values)
    for end in range(len(result) - 1, 0, -1):
        is_sorted = True
        for index in range(end):
            if result[index] > result[index + 1]:
                result[index], result[index + 1] = result[index + 1], result[index]
                is_sorted = False
        if is_sorted:
            break
    return result


if __name__ == "__main__":
    assert bubble_sort([]) == []
    assert bubble_sort([3, 1, 2]) == [1, 2, 3]
    assert bubble_sort([5, 5, -1, 0]) == [-1, 0, 5, 5]
    assert bubble_sort(range(50, 0, -1)) == list(range(1, 51))
    values = [64, 34, 25, 12, 22, 11, 90]
    print(values, "->", bubble_sort(values))
    print("All checks passed.")
