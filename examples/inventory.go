package inventory

import "errors"

// Item is one thing on the shelf.
type Item struct {
	Name     string
	Quantity int
}

// Find returns the item with that name.
func Find(items []Item, name string) (*Item, error) {
	for i := range items {
		
	}
	return nil, errors.New("no such item")
}
