"""Stands between a client and a PostgreSQL server, and could read along: TLS ends here, and begins anew to the server.

tls_proxy.py PORT CERTIFICATE KEY [strip]

PORT is the server's at 127.0.0.1. Prints the port where it listens itself; ends with its standard input. With `strip` it
takes SCRAM-SHA-256-PLUS from what the server offers.
"""

import socket
import ssl
import struct
import sys
import threading

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# AuthenticationSASL with both mechanisms, and with one; length and code go before them.
PLUS, PLAIN = b"SCRAM-SHA-256-PLUS\0", b"SCRAM-SHA-256\0\0"
OFFER, STRIPPED = (b"R" + struct.pack("!ii", 8 + len(body), 10) + body for body in (PLUS + PLAIN, PLAIN))


def pump(source, sink, strip=False):
    try:
        while data := source.recv(65536):
            sink.sendall(data.replace(OFFER, STRIPPED) if strip else data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(client, port, certificate, key, strip):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    assert client.recv(8, socket.MSG_WAITALL) == SSL_REQUEST
    client.sendall(b"S")
    client = context.wrap_socket(client, server_side=True)
    server = socket.create_connection(("127.0.0.1", port))
    server.sendall(SSL_REQUEST)
    assert server.recv(1) == b"S"
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    server = trusting.wrap_socket(server)
    threading.Thread(target=pump, args=(server, client, strip), daemon=True).start()
    pump(client, server)


def accept(listener, *settings):
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, *settings), daemon=True).start()


port, certificate, key, *strip = sys.argv[1:]
listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, args=(listener, int(port), certificate, key, strip == ["strip"]), daemon=True).start()
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
