"""The configurations of nginx, HAProxy and Envoy, and of the upstream that all proxies share.

Every proxy does the same work: keep connections alive on both sides, send 10 % of the users (by the header
x-user-id, always the same ones) to version 2, and name the version in the answer. No access log, no
statistics, one worker. `%(name)s` is filled in; braces are the programs' own.
"""

from __future__ import annotations

from typing import Any

import msgspec

_NGINX = """
worker_processes %(workers)d; daemon off; pid %(here)s/%(name)s.pid; error_log %(here)s/%(name)s.log;
events { worker_connections 8192; }
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; server_tokens off;
  client_body_buffer_size 64k; client_max_body_size 0;
  client_body_temp_path %(here)s/%(name)s-b; proxy_temp_path %(here)s/%(name)s-p;
  fastcgi_temp_path %(here)s/%(name)s-f; uwsgi_temp_path %(here)s/%(name)s-u;
  scgi_temp_path %(here)s/%(name)s-s;
%(http)s
}
"""

_ORIGIN = """
  sendfile on; tcp_nodelay on; default_type application/json;
  %(servers)s
  server { listen 127.0.0.1:%(status)d; location / { stub_status; } }
"""
# A static file is no place to POST to, which nginx would answer with 405.
_ORIGIN_SERVER = """server {
    listen 127.0.0.1:%(port)d backlog=8192; root %(here)s/files; error_page 405 =200 $uri;
    location / { return 200 '%(answer)s'; } location = /p/large { } }
"""

_NGINX_PROXY = """
  upstream a { server 127.0.0.1:%(a)d; keepalive 256; keepalive_requests 1000000000; }
  upstream b { server 127.0.0.1:%(b)d; keepalive 256; keepalive_requests 1000000000; }
  upstream c { server 127.0.0.1:%(c)d; keepalive 256; keepalive_requests 1000000000; }
  split_clients $http_x_user_id $arm { 10%% b; * a; }
  proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
  # Tried for answers of 1 MiB: these cost a quarter of the default sizes, and less than larger ones.
  proxy_buffer_size 16k; proxy_buffers 8 32k; proxy_busy_buffers_size 64k; proxy_max_temp_file_size 0;
  server { listen 127.0.0.1:%(port)d backlog=8192 %(ssl)s; %(tls)s
    location / { proxy_pass http://$arm; add_header x-accede-arm $arm; %(mirror)s %(buffering)s }
    location = /mirror { internal; proxy_pass http://c$request_uri; }
  }
"""
_NGINX_TLS = "ssl_protocols TLSv1.3; ssl_certificate %(certificate)s; ssl_certificate_key %(key)s;"

_HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option http-keep-alive
  http-reuse always
frontend f
  bind 127.0.0.1:%(port)d backlog 8192 %(ssl)s
  default_backend models
backend models
  balance hdr(x-user-id)
  http-response set-header x-accede-arm %%[srv_name]
  server a 127.0.0.1:%(a)d weight 90
  server b 127.0.0.1:%(b)d weight 10
"""


def nginx_origin(here: str, ports: list[int], status: int, answer: str) -> str:
    """An upstream: every port answers `answer`, and `/p/large` with the file of that name."""
    servers = "".join(_ORIGIN_SERVER % {"port": port, "here": here, "answer": answer} for port in ports)
    http = _ORIGIN % {"servers": servers, "status": status}
    return _NGINX % {"workers": 1, "here": here, "name": "origin", "http": http}


def nginx(here: str, ports: dict[str, int], *, mirror: bool, stream: bool, tls: bool) -> str:
    """nginx as the proxy at ports['port'] before ports a and b (and c for copies)."""
    files = {"certificate": f"{here}/tls.crt", "key": f"{here}/tls.key"}
    http = _NGINX_PROXY % {
        **ports,
        "ssl": "ssl" if tls else "",
        "tls": _NGINX_TLS % files if tls else "",
        "mirror": "mirror /mirror;" if mirror else "",
        "buffering": "proxy_buffering off;" if stream else "",
    }
    return _NGINX % {"workers": 1, "here": here, "name": "nginx", "http": http}


def haproxy(here: str, ports: dict[str, int], *, tls: bool) -> str:
    """HAProxy as the proxy."""
    ssl = f"ssl crt {here}/tls.pem ssl-min-ver TLSv1.3" if tls else ""
    return _HAPROXY % {**ports, "ssl": ssl}


def envoy(here: str, ports: dict[str, int], *, mirror: bool, tls: bool) -> bytes:
    """Envoy as the proxy; JSON is YAML."""
    route: dict[str, Any] = {
        "weighted_clusters": {
            "clusters": [_weighted("a", 90), _weighted("b", 10)],
            "use_hash_policy": True,
        },
        "hash_policy": [{"header": {"header_name": "x-user-id"}}],
        "timeout": "0s",
    }
    if mirror:
        route["request_mirror_policies"] = [{"cluster": "c"}]  # without a fraction: all
    extensions = "type.googleapis.com/envoy.extensions"
    router = f"{extensions}.filters.http.router.v3.Router"
    connections = {
        "@type": f"{extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "s",
        "codec_type": "HTTP1",
        "generate_request_id": False,
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": router, "dynamic_stats": False, "suppress_envoy_headers": True},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {"name": "v", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}
            ]
        },
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]
    }
    if tls:
        kind = f"{extensions}.transport_sockets.tls.v3.DownstreamTlsContext"
        files = {
            "certificate_chain": {"filename": f"{here}/tls.crt"},
            "private_key": {"filename": f"{here}/tls.key"},
        }
        versions = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
        context = {"@type": kind, "common_tls_context": {"tls_params": versions, "tls_certificates": [files]}}
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    return msgspec.json.encode(
        {
            "static_resources": {
                "listeners": [
                    {
                        "name": "l",
                        "address": _address(ports["port"]),
                        "tcp_backlog_size": 8192,
                        "filter_chains": [chain],
                    }
                ],
                "clusters": [_cluster(name, ports[name]) for name in ("a", "b", "c")],
            },
            "stats_config": {"stats_matcher": {"reject_all": True}},
        }
    )


def _weighted(name: str, weight: int) -> dict[str, Any]:
    header = {"header": {"key": "x-accede-arm", "value": name}}
    return {"name": name, "weight": weight, "response_headers_to_add": [header]}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _cluster(name: str, port: int) -> dict[str, Any]:
    bounds = {
        "max_connections": 100_000,
        "max_requests": 100_000,
        "max_pending_requests": 100_000,
    }
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [bounds]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
