"""Renders a prompt with Jinja2 as an application in Python would: templates compiled once, the context at hand as dicts.

Reads one JSON object from standard input: `templates` (a list of texts), `input` (what they see), `seconds` (how long to measure).
Prints one JSON object: `microseconds` for one prompt, median of batches; `texts`, to be compared.
"""

import json
import statistics
import sys
import time

import jinja2


def main() -> None:
    job = json.load(sys.stdin)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
    templates = [environment.from_string(text) for text in job["templates"]]
    context = job["input"]

    def render() -> list[str]:
        return [template.render(context) for template in templates]

    texts = render()
    batches = []
    deadline = time.perf_counter() + job["seconds"]
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        for _ in range(50):
            render()
        batches.append((time.perf_counter() - started) / 50)
    json.dump({"microseconds": statistics.median(batches) * 1e6, "texts": texts}, sys.stdout)


main()
