"""Tests of the basket."""

import unittest

from basket import Basket


class BasketTest(unittest.TestCase):
    def test_empty_basket_costs_nothing(self):
        self.assertEqual(Basket().total(), 0)

    def test_total_counts_every_piece(self):
        basket = Basket()
        basket.add("apple", 50, quantity=3)
        basket.add("bread", 320)
        self.assertEqual(basket.total(), 470)

    def test_discount_is_a_part_of_the_total(self):
        basket = Basket()
        basket.add("tea", 400, quantity=2)
        self.assertEqual(basket.total_with_discount(25), 600)

    def test_negative_price_is_refused(self):
        with self.assertRaises(ValueError):
            Basket().add("gift", -1)


if __name__ == "__main__":
    unittest.main()
