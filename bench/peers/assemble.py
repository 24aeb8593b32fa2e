"""Renders a prompt as an application in Python would, with Jinja2 and with LangChain: the context is at hand as dicts.

Reads one JSON object from standard input: `templates` (texts of the system's and the user's message), `input` (what they see),
`seconds` (how long to measure each). Prints one JSON object: for `jinja2` and `langchain` the microseconds of one prompt (`p50`,
`p99`) and `texts`, to be compared; or why it is `left_out`.

Jinja2's templates are compiled once. LangChain's prompt template is made once; it compiles its Jinja2 texts for every prompt, as it
does in an application.
"""

import json
import sys
import time


def measured(render, seconds):
    texts = render()
    times = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        started = time.perf_counter()
        render()
        times.append(time.perf_counter() - started)
    times.sort()
    return {"p50": times[len(times) // 2] * 1e6, "p99": times[len(times) * 99 // 100] * 1e6, "texts": texts}


def with_jinja2(job):
    try:
        import jinja2
    except ImportError:
        return {"left_out": "python3 -m pip install jinja2"}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
    templates = [environment.from_string(text) for text in job["templates"]]
    return measured(lambda: [template.render(job["input"]) for template in templates], job["seconds"])


def with_langchain(job):
    try:
        from langchain_core.prompts import ChatPromptTemplate
    except ImportError:
        return {"left_out": "python3 -m pip install langchain-core jinja2"}
    roles = ["system", "human"]
    template = ChatPromptTemplate.from_messages(list(zip(roles, job["templates"])), template_format="jinja2")
    return measured(lambda: [message.content for message in template.format_messages(**job["input"])], job["seconds"])


def main() -> None:
    job = json.load(sys.stdin)
    json.dump({"jinja2": with_jinja2(job), "langchain": with_langchain(job)}, sys.stdout)


main()
