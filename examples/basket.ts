interface Item {
  name: string;
  price: number;
  quantity: number;
}

class Basket {
  private items: Item[] = [];

  add(item: Item): void {
    this.items.push(item);
  }

  total(): number {
    
  }
}
