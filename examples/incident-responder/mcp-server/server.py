#!/usr/bin/env python3
"""A tool server that changes how many connections a service may open: MCP over streamable HTTP.

It needs nothing but Python 3.9 or later. Two tools: `limits` reads all limits, `set_limit` changes one.

A change is applied once, however often it is asked for. Headwater sends with each call, in `_meta`, a key that is
the same whenever this call of this run is made again: after a crash, or where an answer got lost. The server keeps
the key with the change, in one line of its journal, before it answers; asked again with that key, it gives the
answer that it gave then, and changes nothing. Started again, it reads the journal first.

Source: the Model Context Protocol's specification, 2025-11-25: transports, lifecycle, tools.
"""

import argparse
import hmac
import json
import os
import signal
import sys
import threading
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

IDEMPOTENCY_KEY = "headwater.dev/idempotency-key"
PROTOCOLS = ["2025-11-25", "2025-06-18", "2025-03-26"]
LIMIT_MAX = 10_000
BODY_MAX = 1 << 20

# JSON-RPC's codes.
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602

TOOLS = [
    {
        "name": "limits",
        "description": "How many connections each service may open at once.",
        "inputSchema": {"type": "object", "properties": {}, "additionalProperties": False},
        "annotations": {"readOnlyHint": True},
    },
    {
        "name": "set_limit",
        "description": "Sets how many connections a service may open at once. It applies within seconds.",
        "inputSchema": {
            "type": "object",
            "required": ["service", "limit", "reason"],
            "properties": {
                "service": {"type": "string"},
                "limit": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX},
                "reason": {"type": "string", "maxLength": 400, "description": "Why, in one sentence."},
            },
            "additionalProperties": False,
        },
        "annotations": {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True},
    },
]


class Refused(Exception):
    """What a tool answers where it did nothing, for the model to read."""


class RpcError(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Settings:
    """The limits, and the journal of their changes.

    Invariant: a change is in the journal, with its key, before anybody is told of it.
    """

    def __init__(self, limits, journal):
        self.lock = threading.Lock()
        self.limits = dict(limits)
        self.journal = journal
        self.applied = {}
        if journal:
            journal.seek(0)
            whole = 0
            for line in journal:
                # A crash may have left half a line, of a change that nobody was told of.
                if not line.endswith(b"\n"):
                    break
                self.take(json.loads(line))
                whole += len(line)
            journal.truncate(whole)
            journal.seek(whole)

    def take(self, change):
        self.limits[change["service"]] = change["limit"]
        if change["key"]:
            self.applied[change["key"]] = change

    def all(self):
        with self.lock:
            return dict(self.limits)

    def set_limit(self, service, limit, reason, key):
        with self.lock:
            before = self.applied.get(key) if key else None
            if before:
                if (before["service"], before["limit"]) != (service, limit):
                    raise Refused("this key was used for another change")
                return answer(before)
            if service not in self.limits:
                raise Refused(f"there is no service '{service}'")
            change = {
                "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                "service": service,
                "was": self.limits[service],
                "limit": limit,
                "reason": reason,
                "key": key,
            }
            self.write(change)
            self.take(change)
            return answer(change)

    def write(self, change):
        line = json.dumps(change, ensure_ascii=False) + "\n"
        if self.journal:
            self.journal.write(line.encode())
            self.journal.flush()
            os.fsync(self.journal.fileno())
        sys.stdout.write(line)
        sys.stdout.flush()


def answer(change):
    return {name: change[name] for name in ("service", "was", "limit")}


def text(arguments, name):
    value = arguments.get(name)
    if not isinstance(value, str) or not value or len(value) > 400:
        raise Refused(f"'{name}' must be a text of at most 400 characters")
    return value


def call(settings, params):
    """One call of a tool. What it refuses is a result too: only the model can do better."""
    name, arguments = params.get("name"), params.get("arguments") or {}
    key = (params.get("_meta") or {}).get(IDEMPOTENCY_KEY)
    if not isinstance(arguments, dict):
        raise RpcError(INVALID_PARAMS, "arguments must be an object")
    try:
        if name == "limits":
            result = settings.all()
        elif name == "set_limit":
            limit = arguments.get("limit")
            # A bool is an int to Python.
            if type(limit) is not int or not 1 <= limit <= LIMIT_MAX:
                raise Refused(f"'limit' must be an integer from 1 to {LIMIT_MAX}")
            result = settings.set_limit(text(arguments, "service"), limit, text(arguments, "reason"), key)
        else:
            raise RpcError(INVALID_PARAMS, f"there is no tool '{name}'")
    except Refused as refused:
        return {"content": [{"type": "text", "text": str(refused)}], "isError": True}
    return {"content": [{"type": "text", "text": json.dumps(result)}], "structuredContent": result}


def respond(settings, method, params):
    if method == "initialize":
        wanted = params.get("protocolVersion")
        return {
            "protocolVersion": wanted if wanted in PROTOCOLS else PROTOCOLS[0],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "connection-limits", "version": "1.0.0"},
        }
    if method == "ping":
        return {}
    if method == "tools/list":
        return {"tools": TOOLS}
    if method == "tools/call":
        return call(settings, params)
    raise RpcError(METHOD_NOT_FOUND, f"there is no method '{method}'")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        # No stream: the server never speaks first.
        self.say(200 if self.path == "/healthz" else 405 if self.path == "/mcp" else 404)

    def do_DELETE(self):
        # No sessions, so none to end.
        self.say(405)

    def do_POST(self):
        if self.path != "/mcp":
            return self.say(404)
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            return self.say(411)
        if not 0 <= length <= BODY_MAX:
            return self.say(413)
        body = self.rfile.read(length)
        refusal = self.refusal()
        if refusal:
            return self.say(refusal)
        try:
            message = json.loads(body)
        except ValueError:
            return self.error(None, PARSE_ERROR, "the body is no JSON")
        if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
            return self.error(None, INVALID_REQUEST, "the body is no JSON-RPC message")
        if "id" not in message or "method" not in message:
            # A notification, or an answer to what was never asked.
            return self.say(202)
        number, params = message["id"], message.get("params") or {}
        if not isinstance(params, dict):
            return self.error(number, INVALID_PARAMS, "params must be an object")
        try:
            result = respond(self.server.settings, message["method"], params)
        except RpcError as error:
            return self.error(number, error.code, str(error))
        self.say(200, {"jsonrpc": "2.0", "id": number, "result": result})

    def refusal(self):
        """The status of a request that is not let in."""
        wanted = self.server.authorization
        given = self.headers.get("Authorization", "")
        if wanted and not hmac.compare_digest(given.encode(), wanted.encode()):
            return 401
        # Programs send no Origin. A page in somebody's browser does, and may reach this machine.
        if "Origin" in self.headers:
            return 403
        if self.headers.get("MCP-Protocol-Version", PROTOCOLS[0]) not in PROTOCOLS:
            return 400
        return None

    def error(self, number, code, message):
        status = 400 if number is None else 200
        self.say(status, {"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}})

    def say(self, status, value=None):
        body = b"" if value is None else json.dumps(value).encode()
        if status >= 400:
            # What is left of the body is not the next request.
            self.close_connection = True
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if body:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        # What is worth a line is in the journal.
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address, settings, authorization):
        self.settings = settings
        self.authorization = authorization
        super().__init__(address, Handler)


def main():
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765, help="0: any that is free")
    parser.add_argument("--limits", type=Path, default=here / "limits.json", help="the limits to begin with")
    parser.add_argument("--journal", type=Path, help="keeps the changes, one a line; none: in memory only")
    parser.add_argument("--authorization", type=Path, help="a file with what the header Authorization must be")
    arguments = parser.parse_args()
    authorization = arguments.authorization.read_text().strip() if arguments.authorization else None
    if authorization == "":
        parser.error(f"{arguments.authorization} is empty")
    journal = open(arguments.journal, "a+b") if arguments.journal else None
    settings = Settings(json.loads(arguments.limits.read_text()), journal)
    server = Server((arguments.host, arguments.port), settings, authorization)
    # As a container's first process nothing else would end it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    host, port = server.server_address[:2]
    print(f"listening on http://{host}:{port}/mcp", file=sys.stderr, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
