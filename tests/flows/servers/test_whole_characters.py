"""An order that holds half a character is refused: Prefect would keep it, and list no run again."""

from __future__ import annotations

import json

import pytest
from prefect import get_client
from prefect.exceptions import PrefectHTTPStatusError

from flows.servers.whole_characters import holds_half_a_character
from flows.stack.prefect_session import PrefectSession


@pytest.mark.parametrize(
    "text", ["\ud800", "a\udce9.txt", "\udfff\ud800", "\ud83d x \ude00", "\\\ud800"]
)
def test_half_a_character_is_seen_in_any_text_of_an_order(text: str) -> None:
    for order in (text, [text], {"parameters": {"base": text}}, {text: 1}):
        assert holds_half_a_character(json.dumps(order).encode())
        assert holds_half_a_character(json.dumps(order).upper().replace("\\U", "\\u").encode())


@pytest.mark.parametrize("text", ["", "\U0001f600", "caf\xe9", "\\ud800", "\\\\ud800", "ud800"])
def test_any_other_text_reaches_the_server(text: str) -> None:
    for ascii_only in (True, False):
        assert not holds_half_a_character(json.dumps({"a": text}, ensure_ascii=ascii_only).encode())


@pytest.mark.parametrize("body", [b"", b"\\ud800", b'{"a": "\\ud800', b"[" * 100_000 + b"\\ud800"])
def test_what_is_no_json_is_the_servers_to_refuse(body: bytes) -> None:
    assert not holds_half_a_character(body)


@pytest.mark.slow
def test_the_server_says_what_is_wrong_and_goes_on(prefect: PrefectSession) -> None:
    kind = {"Content-Type": "application/json"}
    with get_client(sync_client=True) as client:
        with pytest.raises(PrefectHTTPStatusError) as refused:
            client.request("POST", "/flows/", content=rb'{"name": "\ud800"}', headers=kind)
        assert refused.value.response.status_code == 422
        assert "half a character" in refused.value.response.json()["detail"]
        assert client.request("POST", "/flows/filter", json={"limit": 1}).status_code == 200
