"""The basket of a shop. All prices are in cents."""


class Basket:
    """The things that a customer wants to buy."""

    def __init__(self):
        self.lines = []

    def add(self, name, price, quantity=1):
        """Add a thing with the price of one piece."""
        if price < 0 or quantity < 1:
            raise ValueError("a price is at least 0, and a quantity at least 1")
        self.lines.append((name, price, quantity))

    def total(self):
        """Return the price of everything in the basket."""
        return sum(price for name, price, quantity in self.lines)

    def total_with_discount(self, percent):
        """Return the total after a discount, rounded down to whole cents."""
        return self.total() * (100 - percent) // 100
