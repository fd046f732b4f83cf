"""Whether a run is online is known at once, and without asking the server for anything."""

import os
import socket
import time
from types import SimpleNamespace

import pytest

from lightning_advreg.loggers import wandb_connection
from lightning_advreg.loggers.wandb_connection import can_connect, reason_to_stay_offline

NOBODY = SimpleNamespace(mode="online", base_url="https://api.example.org", api_key=None)
NO_KEY = "there is no API key (`wandb login` stores one)"


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """A user without a key, whose network works."""
    for name in ("NETRC", *(name for name in os.environ if name.startswith("WANDB_"))):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    tried = []
    monkeypatch.setattr(wandb_connection, "can_connect", lambda *given: tried.append(given) or True)
    return tried


def test_without_a_key_no_server_is_asked(nobody):
    assert reason_to_stay_offline(NOBODY) == NO_KEY
    assert nobody == []


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"])
def test_with_a_key_in_the_environment(name, monkeypatch, nobody):
    monkeypatch.setenv(name, "k")
    assert reason_to_stay_offline(NOBODY) is None
    assert nobody == [("https://api.example.org", 1.0)]


def test_with_a_key_of_this_process():
    assert reason_to_stay_offline(SimpleNamespace(**vars(NOBODY) | {"api_key": "k"})) is None


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("machine api.example.org login user password k", None),
        ("machine api.wandb.ai login user password k", None),
        ("machine elsewhere.org login user password k", NO_KEY),
        ("machine api.example.org login user", NO_KEY),
        ("nonsense {", NO_KEY),
    ],
)
def test_with_a_key_that_login_has_stored(entry, reason, tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text(entry + "\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert reason_to_stay_offline(NOBODY) == reason
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert reason_to_stay_offline(NOBODY) == NO_KEY


def test_the_key_of_the_public_server_is_none_for_ones_own(tmp_path, monkeypatch):
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password k\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.mine.org")
    assert reason_to_stay_offline(NOBODY) == NO_KEY


@pytest.mark.parametrize(
    ("mode", "reason"),
    [("offline", "WANDB_MODE is offline"), ("dryrun", "WANDB_MODE is dryrun"), ("online", None), ("disabled", None)],
)
def test_the_user_decides(mode, reason, monkeypatch, nobody):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert reason_to_stay_offline(NOBODY) == reason
    assert nobody == []


def test_wandb_offline_and_sweeps(monkeypatch):
    told = SimpleNamespace(**vars(NOBODY) | {"mode": "offline", "api_key": "k"})
    assert reason_to_stay_offline(told) == "`wandb offline` was run here"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    assert reason_to_stay_offline(told) is None


def test_a_server_that_does_not_answer(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.setattr(wandb_connection, "can_connect", lambda *given: False)
    assert reason_to_stay_offline(NOBODY) == "api.example.org does not answer"


def test_connecting_takes_no_longer_than_it_may(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert can_connect(f"http://127.0.0.1:{port}", 30.0)
        # through a proxy, since the server itself has no such name
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{port}")
        assert can_connect("http://nowhere.invalid", 30.0)
        monkeypatch.delenv("http_proxy")
    assert not can_connect(f"http://127.0.0.1:{port}", 30.0)
    # a resolver that hangs, as without a network
    monkeypatch.setattr(socket, "create_connection", lambda *args, **kwargs: time.sleep(5))
    started = time.monotonic()
    assert not can_connect("https://api.example.org", 0.05)
    assert time.monotonic() - started < 4
