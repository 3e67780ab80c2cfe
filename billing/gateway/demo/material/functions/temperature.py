"""Convert temperatures between Celsius and Fahrenheit."""


def celsius_to_fahrenheit(celsius):
    """Return a temperature in degrees Fahrenheit."""
    return celsius * 9 / 5 + 32


def fahrenheit_to_celsius(fahrenheit):
    """Return a temperature in degrees Celsius."""
    return (fahrenheit - 32) * 5 / 9


if __name__ == "__main__":
    assert celsius_to_fahrenheit(0) == 32
    assert celsius_to_fahrenheit(100) == 212
    assert celsius_to_fahrenheit(-40) == -40
    assert fahrenheit_to_celsius(212) == 100
    assert abs(fahrenheit_to_celsius(98.6) - 37) < 1e-9
    for celsius in (-40, 0, 37, 100):
        print(f"{celsius} °C = {celsius_to_fahrenheit(celsius):.1f} °F")
    print("All checks passed.")
