"""Files to be typed key by key, at the pace of a fast typist. None needs the tab key, which accepts suggestions."""

from __future__ import annotations

KEYS_A_SECOND = 12

TYPED = {
    "typed.ts": "export function area(width: number, height: number): number {\n  return width * height;\n}\n\n"
    "export class Item {\n  constructor(readonly name: string, readonly price: number) {}\n\n  label(): string {\n"
    "    return this.name + this.price;\n  }\n}\n",
    "typed.go": "package shop\n\nvar sold = map[string]int{}\n\n"
    "func area(width, height int) int { return width * height }\n\n"
    "func sell(name string, count int) { sold[name] += count }\n\n"
    "func known(name string) bool { return sold[name] > 0 }\n",
}
assert all(len(text) >= 200 for text in TYPED.values())
