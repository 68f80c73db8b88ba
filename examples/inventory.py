"""A shop's inventory: the file that `make demo` fills a hole in."""


class Item:
    def __init__(self, name, price, quantity):
        self.name = name
        self.price = price
        self.quantity = quantity

    def total(self):
        return self.price * self.quantity


class Inventory:
    def __init__(self, items):
        self.items = items

    def add(self, item):
        self.items.append(item)
        return self

    def total(self):
        return sum(item.total() for item in self.items)

    def find(self, name):
        for 
            if item.name == name:
                return item
        return None
