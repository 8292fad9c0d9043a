#!/usr/bin/env python3
"""A local Synapse for the demo: loopback only, SQLite in the given folder.

Ends when its standard input closes, so that no server is left behind however the demo ends.
"""

import os
import secrets
import sys
import threading

CONFIG = """
server_name: "{name}"
pid_file: "{dir}/homeserver.pid"
public_baseurl: "http://127.0.0.1:{port}/"
listeners:
  - {{port: {port}, bind_addresses: ["127.0.0.1"], type: http, resources: [{{names: [client, media]}}]}}
database: {{name: sqlite3, args: {{database: "{dir}/homeserver.db"}}}}
log_config: "{dir}/log.yaml"
media_store_path: "{dir}/media"
signing_key_path: "{dir}/signing.key"
registration_shared_secret: "{secret}"
macaroon_secret_key: "{secret}"
form_secret: "{secret}"
report_stats: false
suppress_key_server_warning: true
trusted_key_servers: []
enable_registration: true
enable_registration_without_verification: true
presence: {{enabled: false}}
rc_message: {{per_second: 50, burst_count: 200}}
"""

LOG = """
version: 1
formatters: {{plain: {{format: "%(asctime)s %(levelname)s %(name)s %(message)s"}}}}
handlers: {{file: {{class: logging.FileHandler, filename: "{dir}/homeserver.log", formatter: plain}}}}
root: {{level: WARNING, handlers: [file]}}
"""


def write(path, text):
    """Writes a file that only its owner can read."""
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)


def main():
    """homeserver.py FOLDER PORT NAME"""
    folder, port, name = os.path.abspath(sys.argv[1]), sys.argv[2], sys.argv[3]
    os.makedirs(folder, mode=0o700, exist_ok=True)
    config = os.path.join(folder, "homeserver.yaml")
    if not os.path.exists(config):
        # 43 characters of unpadded base64 are 32 bytes, and hexadecimal digits are base64 too.
        write(os.path.join(folder, "signing.key"), f"ed25519 a_demo {secrets.token_hex(21)}A\n")
        write(os.path.join(folder, "log.yaml"), LOG.format(dir=folder))
        write(
            config,
            CONFIG.format(dir=folder, port=port, name=name, secret=secrets.token_hex(16)),
        )

    def watch():
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    # Ctrl-C goes to the whole foreground group; the demo decides when its parts end.
    os.setpgrp()
    os.chdir(folder)
    sys.argv = ["synapse", "-c", config]
    from synapse.app.homeserver import main as serve

    serve()


if __name__ == "__main__":
    main()
