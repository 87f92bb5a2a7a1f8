"""A small server of OpenAI's completions: tokens in, echoed with their log-probabilities.

A program of its own: `python completions_server.py CHECKPOINT PORT [--host HOST] [--fault FAULT]`.
"""

from __future__ import annotations

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FAULTS = ("end", "text", "break")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("port", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--fault", choices=FAULTS)
    options = parser.parse_args()
    if options.fault == "end":
        sys.exit("the server has no memory for this model")
    torch.set_num_threads(1)
    served = Served(options.checkpoint, options.fault)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say({"data": [{"id": options.checkpoint}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._say(served.answer(asked))

        def log_message(self, form: str, *values: Any) -> None:
            pass

        def _say(self, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    HTTPServer((options.host, options.port), Handler).serve_forever()


class Served:
    def __init__(self, checkpoint: str, fault: str | None) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(checkpoint)
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.fault = fault

    @torch.inference_mode()
    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        if self.fault == "break":
            raise SystemExit
        one = self._scored if asked.get("echo") else self._generated
        choices = [
            {"index": index} | one(tokens, asked) for index, tokens in enumerate(asked["prompt"])
        ]
        return {"choices": choices}

    def _scored(self, tokens: list[int], asked: dict[str, Any]) -> dict[str, Any]:
        if self.fault == "text":
            return {"text": "a server that does not echo"}
        logits = self.model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
        own = [None, *(logits[i, token].item() for i, token in enumerate(tokens[1:]))]
        best = [None, *({"best": row.max().item()} for row in logits[:-1])]
        last = {"best": logits[-1].max().item()}
        return {
            "text": "",
            "logprobs": {
                "token_logprobs": [*own, last["best"]],
                "top_logprobs": [*best, last],
            },
        }

    def _generated(self, tokens: list[int], asked: dict[str, Any]) -> dict[str, Any]:
        made: list[int] = []
        while len(made) < asked["max_tokens"]:
            made.append(int(self.model(torch.tensor([tokens + made])).logits[0, -1].argmax()))
            text = self.tokenizer.decode(made)
            for stop in asked["stop"]:
                if stop in text:
                    return {"text": text.partition(stop)[0], "finish_reason": "stop"}
            if made[-1] == self.model.config.eos_token_id:
                made.pop()
                return {"text": self.tokenizer.decode(made), "finish_reason": "stop"}
        return {"text": text, "finish_reason": "length"}


if __name__ == "__main__":
    main()
