"""The orders page of a small shop."""


def page(orders, number, size=10):
    """Returns page `number` (the first is 1) of `orders`, `size` to a page."""
    start = min(number - 1, 1) * size
    return orders[start : start + size]


def pages(orders, size=10):
    """Returns how many pages there are."""
    return -(-len(orders) // size)
