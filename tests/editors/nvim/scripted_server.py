"""A language server that says what a test tells it to. Knows nothing of models; for tests of what an editor draws.

`test/plan` sets its items; their `covers` counts the characters after the cursor that the item replaces. With `held`,
requests wait for `test/release`, which answers the oldest of them (or, with `last`, the newest). `edits` are the next
edits, for the version that is asked about. `test/received` gives the trigger kinds of all requests so far ("edit" for
those of next edits), and the methods of all notifications.
"""

from __future__ import annotations

import json
import sys
from typing import Any

CAPABILITIES = {
    "textDocumentSync": {"openClose": True, "change": 2},
    "inlineCompletionProvider": {},
    "executeCommandProvider": {"commands": ["test.accepted", "dgemma.explainSilence"]},
    "positionEncoding": "utf-16",
}


def read() -> dict[str, Any] | None:
    length = 0
    while (line := sys.stdin.buffer.readline()).strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return json.loads(sys.stdin.buffer.read(length)) if length else None


def send(message: dict[str, Any]) -> None:
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    sys.stdout.buffer.flush()


def item(planned: dict[str, Any], at: dict[str, int]) -> dict[str, Any]:
    begun = {"line": at["line"], "character": at["character"] - planned.get("typed", 0)}
    end = {"line": at["line"], "character": at["character"] + planned.get("covers", 0)}
    found = {"insertText": planned["text"], "range": {"start": begun, "end": end}}
    if "command" in planned:
        found["command"] = {"title": "accepted", "command": planned["command"], "arguments": [planned["text"]]}
    return found


def main() -> None:
    plan: dict[str, Any] = {"items": []}
    waiting: list[dict[str, Any]] = []
    received: dict[str, list[Any]] = {"kinds": [], "methods": [], "commands": []}

    def answer(request: dict[str, Any]) -> None:
        params = request["params"]
        if request["method"] == "textDocument/copilotInlineEdit":
            document, places = params["textDocument"], plan.get("edits", [])
            send({"id": request["id"], "result": {"edits": [place | {"textDocument": document} for place in places]}})
            return
        invoked = params["context"]["triggerKind"] == 1
        items = plan.get("invoked", plan["items"]) if invoked else plan["items"]
        send({"id": request["id"], "result": [item(planned, params["position"]) for planned in items]})

    while (message := read()) is not None:
        method, params = message.get("method"), message.get("params")
        if "id" not in message:
            received["methods"].append(method)
            if method == "exit":
                return
            continue
        result: Any = None
        match method:
            case "initialize":
                encodings = params["capabilities"].get("general", {}).get("positionEncodings", ["utf-16"])
                offered = {**CAPABILITIES, "positionEncoding": encodings[0]}
                result = {"capabilities": offered, "serverInfo": {"name": "scripted", "version": "1"}}
            case "textDocument/inlineCompletion" | "textDocument/copilotInlineEdit":
                received["kinds"].append(params.get("context", {}).get("triggerKind", "edit"))
                if plan.get("held"):
                    waiting.append(message)
                else:
                    answer(message)
                continue
            case "test/plan":
                plan = params
            case "test/release":
                if waiting:
                    answer(waiting.pop(-1 if params.get("last") else 0))
            case "test/waiting":
                result = len(waiting)
            case "test/received":
                result = received
            case "workspace/executeCommand":
                received["commands"].append([params["command"], params["arguments"]])
                result = {"name": "SHY", "reason": "it is shy"} if params["command"].startswith("dgemma") else None
        send({"id": message["id"], "result": result})


if __name__ == "__main__":
    main()
