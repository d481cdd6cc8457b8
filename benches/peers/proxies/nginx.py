"""nginx, as its documentation sets up a reverse proxy with keep-alive to the backends."""

from proxies.base import Command, Proxy, Setup, Site


class Nginx(Proxy):
    logs = ("combined", "json")

    def configure(self, site: Site, setup: Setup) -> Command:
        folder = self.folder(site)
        (folder / "nginx.conf").write_text(self._configuration(site, setup))
        return Command([self.binary, "-c", f"{folder}/nginx.conf"])

    def check(self, command: Command) -> list[str]:
        return [*command.argv, "-t"]

    def version(self) -> str:
        return self.version_by([self.binary, "-v"], r"nginx/(\S+)")

    def _configuration(self, site: Site, setup: Setup) -> str:
        folder = self.folder(site)
        servers = " ".join(f"server {address};" for address in site.backends)
        log = f"{self.log_file(site)} {setup.log} buffer=32k" if setup.log else "off"
        # Those to backends count as well, and of its last sixteenth it takes idle ones back.
        many = setup.max_connections > 8192
        connections = setup.max_connections * 9 // 4 if many else setup.max_connections
        return f"""
worker_processes {setup.workers}; pid {folder}/nginx.pid; daemon off;
error_log {folder}/error.log crit;
events {{ worker_connections {connections}; }}
http {{ {self._json(site)}
 access_log {log}; client_max_body_size 64m;
 client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxied;
 keepalive_requests 100000000; keepalive_timeout 600s;
 ssl_session_cache off; ssl_session_tickets off;
 upstream b {{ least_conn; {servers} keepalive 512; keepalive_requests 100000000; }}
 {self._servers(site, setup)}
}}
"""

    @staticmethod
    def _json(site: Site) -> str:
        """A format with the facts of Meridian's line, as far as nginx knows them or can be told."""
        regions = " ".join(
            f"{address} region-{number // 3};" for number, address in enumerate(site.backends)
        )
        fields = {
            "time": "$time_iso8601",
            "request_id": "$request_id",
            "client": "$remote_addr",
            "method": "$request_method",
            "host": "$host",
            "target": "$request_uri",
            "protocol": "$server_protocol",
            "route": "all",
            "service": "api",
            "region": "$region",
            "endpoint": "$upstream_addr",
            "user_agent": "$http_user_agent",
        }
        numbers = {
            "status": "$status",
            "bytes": "$body_bytes_sent",
            "duration_s": "$request_time",
            "upstream_s": "$upstream_response_time",
        }
        texts = [f'"{name}":"{value}"' for name, value in fields.items()]
        values = [f'"{name}":{value}' for name, value in numbers.items()]
        line = ",".join(texts + values)
        return (
            f"map $upstream_addr $region {{ {regions} }}\n"
            f" log_format json escape=json '{{{line}}}';"
        )

    def _servers(self, site: Site, setup: Setup) -> str:
        folder = site.folder
        old = tuple(map(int, self.version().split(".")[:2])) < (1, 25)
        flag, directive = ("http2", "") if old else ("", "http2 on;")
        certificate = (
            f"ssl_certificate {folder}/cert.pem; "
            f"ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.3;"
        )
        listeners = {
            "h1": ("", ""),
            "h2": (flag, directive),
            "tls": (f"ssl {flag}", f"{directive} {certificate}"),
        }
        location = (
            "location / { proxy_pass http://b; proxy_http_version 1.1; "
            'proxy_set_header Connection ""; proxy_set_header Host $host; '
            "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }"
        )
        shared = "reuseport" if setup.workers > 1 else ""
        return "\n ".join(
            f"server {{ listen {site.address(name)} {listeners[name][0]} backlog=4096 {shared}; "
            f"{listeners[name][1]} {location} }}"
            for name in sorted(setup.listeners)
        )
