import unittest

from orders import page, pages

ORDERS = list(range(1, 26))


class OrdersPage(unittest.TestCase):
    def test_the_first_page_shows_the_first_orders(self):
        self.assertEqual(page(ORDERS, 1), ORDERS[:10])

    def test_every_order_is_shown_exactly_once(self):
        shown = [order for number in range(1, pages(ORDERS) + 1) for order in page(ORDERS, number)]
        self.assertEqual(shown, ORDERS)


if __name__ == "__main__":
    unittest.main()
