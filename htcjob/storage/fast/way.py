"""The way from object_store to a server: through the proxy of the variables, or straight and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

NOWHERE = "127.0.0.1:0"
"""
The proxy for every server but the one that is meant; nothing can listen there.

object_store follows redirections, and has no option that switches it off. This ends those to another host.
"""
_OWN_HOSTS = {
    "s3": "amazonaws.com,amazonaws.com.cn,amazonaws.eu",
    "gs": "googleapis.com",  # which also makes tokens of service accounts' keys
    "az": "core.windows.net,core.chinacloudapi.cn,core.usgovcloudapi.net",
}


def way_to(scheme: str, endpoint: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """
    Return the options of a client.

    Proxies are understood as the SDKs do: NO_PROXY may name hosts, their domains, and ports.

    Args:
        scheme: `s3`, `gs` or `az`.
        endpoint: URL of the server; empty: the cloud's own.
        environ: The variables.
    """
    if proxy := _proxy_to(endpoint or f"https://{_OWN_HOSTS[scheme].partition(',')[0]}", scheme, environ):
        return {"proxy_url": proxy if "://" in proxy else f"http://{proxy}"}
    hosts = [urlsplit(endpoint).hostname or ""] if endpoint else []
    if not endpoint or scheme == "gs":
        hosts.append(_OWN_HOSTS[scheme])
    return {"proxy_url": f"http://{NOWHERE}", "proxy_excludes": ",".join(hosts)}


def _proxy_to(url: str, scheme: str, environ: Mapping[str, str]) -> str | None:
    proxies: dict[str, str] = {}
    for name in sorted(environ):  # upper case first, so that lower case wins
        if name.lower().endswith("_proxy"):
            proxies[name.lower().removesuffix("_proxy")] = environ[name]
    if not proxies:
        return None
    from urllib import request  # 30 ms: most jobs have no proxy

    is_exempt = request.proxy_bypass_environment(urlsplit(url).netloc, proxies)  # type: ignore[attr-defined]
    proxy = proxies.get(url.partition(":")[0]) or (proxies.get("all") if scheme != "s3" else None)
    return None if is_exempt else proxy
