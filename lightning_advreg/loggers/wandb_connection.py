"""Whether a run of Weights & Biases can be sent at once, found out without waiting for a network."""

import netrc
import os
import socket
import threading
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_PATIENCE = 1.0
_OFFLINE = ("offline", "dryrun")
_HOST = "api.wandb.ai"


def reason_to_stay_offline(settings: Any, *, patience: float = _PATIENCE) -> str | None:  # noqa: ANN401
    """Tell why a run cannot, or should not, be sent while it goes on.

    What the user has said comes first: ``WANDB_MODE``, then ``wandb offline``. A run of a sweep is online. Otherwise a
    key is looked for where ``wandb login`` leaves it, and only with one the server is tried, for a connection alone.

    Args:
        settings: ``wandb.setup().settings``.
        patience: How long to wait for the server, in seconds.

    Returns:
        The reason in a few words; None for a run that can be online.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return f"WANDB_MODE is {mode}" if mode in _OFFLINE else None
    if os.environ.get("WANDB_SWEEP_ID"):
        return None
    if getattr(settings, "mode", None) in _OFFLINE:
        return "`wandb offline` was run here"
    server = os.environ.get("WANDB_BASE_URL") or str(getattr(settings, "base_url", None) or f"https://{_HOST}")
    if not _has_key(settings, server):
        return "there is no API key (`wandb login` stores one)"
    if not can_connect(server, patience):
        return f"{urlsplit(server).hostname} does not answer"
    return None


def can_connect(server: str, patience: float) -> bool:
    """Try to connect to a server, or to the proxy that leads there.

    Args:
        server: Its URL.
        patience: How long to wait in seconds, also for names to be resolved.
    """
    url = urlsplit(server)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and url.hostname and not urllib.request.proxy_bypass(url.hostname):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    answered, ended = threading.Event(), threading.Event()

    def connect() -> None:
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            with socket.create_connection((url.hostname or "", port), timeout=patience):
                answered.set()
        except (OSError, ValueError):
            pass
        finally:
            ended.set()

    # the resolver has no timeout, and may take half a minute on a machine without a network
    threading.Thread(target=connect, daemon=True).start()
    ended.wait(patience)
    return answered.is_set()


def _has_key(settings: Any, server: str) -> bool:  # noqa: ANN401
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    # of `wandb.login(key=...)` in this process
    if getattr(settings, "api_key", None):
        return True
    host = urlsplit(server).netloc
    hosts = {host} if os.environ.get("WANDB_BASE_URL") else {host, _HOST}
    return any(_in_netrc(path, hosts) for path in _netrc_files(os.environ))


def _netrc_files(environment: Mapping[str, str]) -> list[Path]:
    named = environment.get("NETRC")
    return [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]


def _in_netrc(path: Path, hosts: set[str]) -> bool:
    try:
        entries = netrc.netrc(str(path))
    except (OSError, netrc.NetrcParseError):
        return False
    return any(found is not None and bool(found[2]) for found in map(entries.authenticators, hosts))
